"""The engine follows the processor, and the operator before it."""

import pytest

from service.engine import cpu
from service.settings import Settings


@pytest.mark.parametrize(
    ("given", "has_bf16", "encode", "decode"),
    [
        ({}, True, ("onnxruntime", "f32"), ("openvino", "bf16")),
        ({}, False, ("onnxruntime", "f32"), ("onnxruntime", "f32")),
        ({"engine": "onnxruntime"}, True, ("onnxruntime", "f32"), ("onnxruntime", "f32")),
        ({"engine": "openvino"}, False, ("openvino", "f32"), ("openvino", "f32")),
        (
            {"engine": "openvino", "decode_precision": "f32"},
            True,
            ("openvino", "f32"),
            ("openvino", "f32"),
        ),
        ({"decode_precision": "int8"}, True, ("onnxruntime", "f32"), ("openvino", "int8")),
        (
            {"encode_precision": "bf16", "decode_precision": "bf16"},
            False,
            ("openvino", "bf16"),
            ("openvino", "bf16"),
        ),
    ],
)
def test_engine_and_precision(
    given: dict[str, str],
    has_bf16: bool,
    encode: tuple[str, str],
    decode: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "processor_has_bf16", lambda: has_bf16)
    settings = Settings(**given)
    assert cpu.cpu_engine("encode", settings) == encode
    assert cpu.cpu_engine("decode", settings) == decode


@pytest.mark.parametrize(
    ("asked", "decode"),
    [
        ("auto", ("onnxruntime", "f32")),
        ("int8", ("onnxruntime", "f32")),
        ("bf16", ("openvino", "bf16")),
    ],
)
def test_a_flow_decodes_in_f32_unless_told_otherwise(
    asked: str, decode: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "processor_has_bf16", lambda: True)
    assert cpu.cpu_engine("decode", Settings(decode_precision=asked), "flextok") == decode
    assert cpu.cpu_engine("decode", Settings(), "cvq") == ("openvino", "bf16")


def test_this_processor_is_known() -> None:
    assert cpu.processor_has_bf16() in (True, False)


def test_a_generator_computes_alike_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "processor_has_bf16", lambda: True)
    assert cpu.cpu_engine("generate", Settings(engine="openvino", encode_precision="bf16")) == (
        "onnxruntime",
        "f32",
    )
