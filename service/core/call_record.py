"""What metrics, traces and the log are told of one call, whatever it does: encode, decode or generate."""

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import structlog

from service.errors import DeadlineExceeded, ServiceError, is_ours
from service.observability import metrics, tracing
from service.observability.request_context import deadline_passed
from service.triton.models import Inference

log = structlog.get_logger()
Stages = dict[str, float]  # stage -> seconds, in the order they happened


@dataclass
class CallRecord:
    """One call's way through the service: its stages, its clock, and, when it is left as a context, what is said of it.

    slow_seconds: a call that takes longer has a line in the log. untimed_stages: stages whose time is no slowness. timeout: seconds to the
    caller's deadline.
    """

    rpc: str
    slow_seconds: float
    untimed_stages: frozenset[str] = frozenset()
    timeout: float | None = None
    stages: Stages = field(default_factory=dict)
    tokenizer: str = ""
    k: int = 0
    budget: str = ""
    started: float = field(default_factory=time.perf_counter)
    stage_started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.span = tracing.start_image_span(self.rpc)

    def set_subject(self, tokenizer: str, k: int) -> None:
        self.tokenizer, self.k, self.budget = tokenizer, k, metrics.budget_label(k)

    def end_stage(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = now - self.stage_started
        self.stage_started = now
        self.span.stage(stage, self.stages[stage])

    def add_inference(self, inference: Inference) -> None:
        if inference.queue_seconds is not None:
            self.stages["engine_queue"] = (
                self.stages.get("engine_queue", 0.0) + inference.queue_seconds
            )
        self.stages["engine"] = self.stages.get("engine", 0.0) + inference.compute_seconds
        self.stage_started = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        match error:
            case None:
                metrics.IMAGES.labels(self.rpc).inc()
                for stage, seconds in self.stages.items():
                    metrics.STAGE_SECONDS.labels(self.rpc, stage, self.budget).observe(seconds)
                self._close("OK")
            case ServiceError():
                self._close(error.code, "; ".join([error.detail, *getattr(error, "__notes__", [])]))
            case asyncio.CancelledError():
                self._close(
                    DeadlineExceeded.code
                    if deadline_passed(time.perf_counter() - self.started, self.timeout)
                    else "CANCELLED"
                )
            case _:
                self._close(ServiceError.code)

    def _close(self, code: str, why: str = "") -> None:
        """code: OK, CANCELLED or an error's. A fault of ours and a slow call have a line in the log; what callers do wrong has none."""
        seconds = time.perf_counter() - self.started
        metrics.REQUEST_SECONDS.labels(self.rpc, code).observe(seconds)
        if code != "OK":
            metrics.ERRORS.labels(self.rpc, code).inc()
        ours = is_ours(code)
        self.span.end(code, ours, {"tokenizer": self.tokenizer, "k": self.k})
        if (
            ours and code != ServiceError.code
        ):  # that one is logged with its traceback where it becomes a reply
            log.error("call_failed", why=why, **self._facts(code, seconds))
        elif (
            seconds - sum(self.stages.get(stage, 0.0) for stage in self.untimed_stages)
            > self.slow_seconds
        ):
            log.warning("slow_call", **self._facts(code, seconds))

    def _facts(self, code: str, seconds: float) -> dict[str, Any]:
        stages = {stage: round(taken, 6) for stage, taken in self.stages.items()}
        return {
            "rpc": self.rpc,
            "code": code,
            "tokenizer": self.tokenizer,
            "k": self.k,
            "seconds": round(seconds, 6),
            "stages": stages,
        }
