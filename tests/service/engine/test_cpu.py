import pytest

from service.engine import cpu
from service.settings import Settings


@pytest.mark.parametrize(
    ("options", "has_bf16", "encode", "decode"),
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
def test_cpu_engine_follows_the_settings_and_then_the_processor(
    options: dict[str, str],
    has_bf16: bool,
    encode: tuple[str, str],
    decode: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "processor_has_bf16", lambda: has_bf16)
    settings = Settings(**options)
    assert cpu.cpu_engine("encode", settings) == encode
    assert cpu.cpu_engine("decode", settings) == decode


@pytest.mark.parametrize(
    ("precision", "decode"),
    [
        ("auto", ("onnxruntime", "f32")),
        ("int8", ("onnxruntime", "f32")),
        ("bf16", ("openvino", "bf16")),
    ],
)
def test_cpu_engine_decodes_a_flow_in_f32_unless_bf16_is_set(
    precision: str, decode: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "processor_has_bf16", lambda: True)
    assert cpu.cpu_engine("decode", Settings(decode_precision=precision), "flextok") == decode
    assert cpu.cpu_engine("decode", Settings(), "cvq") == ("openvino", "bf16")


def test_processor_has_bf16_reads_this_machine() -> None:
    assert cpu.processor_has_bf16() in (True, False)


def test_cpu_engine_generates_alike_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "processor_has_bf16", lambda: True)
    assert cpu.cpu_engine("generate", Settings(engine="openvino", encode_precision="bf16")) == (
        "onnxruntime",
        "f32",
    )
