"""Choice of inference engine (ONNX Runtime, OpenVINO) and precision for this processor."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from service.settings import EngineSettings

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}  # without one, bf16 is emulated and slower than f32


# Flow decoders: the rounding errors of bf16 add up over the passes of the network, to 24 of 255,
# and differ between batches (docs/decisions/0011). Without convolutions they have no int8 graph.
_DECODE_IN_F32 = {"flextok"}


def cpu_engine(parameters: Mapping[str, str], settings: EngineSettings) -> tuple[str, str]:
    """Engine and precision of a graph: ("openvino", "bf16"), say.

    parameters: of config.pbtxt. `role` is encode, decode or generate, `family` the tokenizer's, and
    `avx512_engine`, where it is set, the faster engine for f32 on a processor with AVX-512.
    """
    role = parameters["role"]
    if role == "generate":
        # A seed gives the same tokens everywhere; one other rounding would change all that follow.
        return "onnxruntime", "f32"
    precision = settings.encode_precision if role == "encode" else settings.decode_precision
    if role == "decode" and parameters["family"] in _DECODE_IN_F32 and precision != "bf16":
        precision = "f32"
    if precision == "auto":
        precision = "bf16" if settings.engine != "onnxruntime" and processor_has_bf16() else "f32"
    engine: str = settings.engine
    if engine == "auto" and precision == "f32":
        engine = "onnxruntime"
        if processor_has_avx512():
            engine = parameters.get("avx512_engine", engine)
    elif engine == "auto":
        engine = "openvino"
    return engine, precision


def processor_has_bf16() -> bool:
    """Whether the processor has instructions for bfloat16."""
    return bool(_BF16_FLAGS & processor_flags())


def processor_has_avx512() -> bool:
    """Whether the processor has AVX-512."""
    return "avx512f" in processor_flags()


@cache
def processor_flags() -> frozenset[str]:
    """Instruction sets of the processor, by their names in /proc/cpuinfo, among other words."""
    return frozenset(Path("/proc/cpuinfo").read_text().split())
