import pytest

from service.engine import cpu
from service.settings import Settings

ENCODER, DECODER, GENERATOR = (
    {"role": role, "family": "channeltok"} for role in ("encode", "decode", "generate")
)


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
    assert cpu.cpu_engine(ENCODER, settings) == encode
    assert cpu.cpu_engine(DECODER, settings) == decode


@pytest.mark.parametrize(
    ("options", "has_avx512", "encode"),
    [
        ({}, True, ("openvino", "f32")),
        ({}, False, ("onnxruntime", "f32")),
        ({"engine": "onnxruntime"}, True, ("onnxruntime", "f32")),
        ({"encode_precision": "bf16"}, True, ("openvino", "bf16")),
    ],
)
def test_cpu_engine_follows_the_model_where_the_processor_has_avx512(
    options: dict[str, str],
    has_avx512: bool,
    encode: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "processor_has_avx512", lambda: has_avx512)
    monkeypatch.setattr(cpu, "processor_has_bf16", lambda: False)
    settings = Settings(**options)
    parameters = {**ENCODER, "avx512_engine": "openvino"}
    assert cpu.cpu_engine(parameters, settings) == encode
    assert cpu.cpu_engine(DECODER, settings) == ("onnxruntime", "f32")


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
    settings = Settings(decode_precision=precision)
    assert cpu.cpu_engine({**DECODER, "family": "flextok"}, settings) == decode
    assert cpu.cpu_engine({**DECODER, "family": "cvq"}, Settings()) == ("openvino", "bf16")


def test_features_are_read_from_this_machine() -> None:
    assert cpu.processor_has_bf16() in (True, False)
    assert cpu.processor_has_avx512() in (True, False)


def test_cpu_engine_generates_alike_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "processor_has_bf16", lambda: True)
    settings = Settings(engine="openvino", encode_precision="bf16")
    assert cpu.cpu_engine(GENERATOR, settings) == ("onnxruntime", "f32")
