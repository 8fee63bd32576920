"""Headers of a result: stage times, and the engine that computed it."""

from service.core.call_record import Stages


def result_headers(stages: Stages, engine: str) -> dict[str, str]:
    """engine: what computed the result, such as "openvino bf16"."""
    timing = ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in stages.items())
    return {"Server-Timing": timing, "ChannelTok-Engine": engine}
