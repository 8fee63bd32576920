"""Which engine runs a graph on this machine's processor, and in which arithmetic."""

from functools import cache
from pathlib import Path

from service.settings import EngineSettings

_BF16 = {"avx512_bf16", "amx_bf16"}  # without one of these bf16 is emulated, and slower than f32


# Flows: what bf16 rounds away at each pass of the network adds up, to 24 of 255, and not in the same way in every batch
# (docs/decisions/0011). Of int8 they have no graph: they have no convolutions.
_DECODE_IN_F32 = {"flextok"}


def cpu_engine(role: str, settings: EngineSettings, family: str = "channeltok") -> tuple[str, str]:
    """Engine and precision for a graph that does `role` (encode, decode or generate) of a tokenizer of `family`: ("openvino", "bf16")."""
    if (
        role == "generate"
    ):  # a seed must give the same tokens on every processor, and one rounding changes all that follow
        return "onnxruntime", "f32"
    precision = settings.encode_precision if role == "encode" else settings.decode_precision
    if role == "decode" and family in _DECODE_IN_F32 and precision != "bf16":
        precision = "f32"
    if precision == "auto":
        precision = "bf16" if settings.engine != "onnxruntime" and processor_has_bf16() else "f32"
    engine = settings.engine
    if engine == "auto":
        engine = "onnxruntime" if precision == "f32" else "openvino"
    return engine, precision


@cache
def processor_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    return bool(_BF16 & set(Path("/proc/cpuinfo").read_text().split()))
