"""CallRecord: deadline and stage times of a call, reported to metrics, trace and log at its end."""

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
    """`async with` around one call of encode, decode or generate. Raises DeadlineExceeded.

    slow_seconds: a call that takes longer is logged. untimed_stages: stages that do not count
    towards that, because the caller waits for them on purpose. timeout: seconds from the start to
    the caller's deadline. images: how many a call that succeeds counts as.
    """

    rpc: str
    slow_seconds: float
    untimed_stages: frozenset[str] = frozenset()
    timeout: float | None = None
    stages: Stages = field(default_factory=dict)
    tokenizer: str = ""
    k: int = 0
    budget: str = ""
    images: int = 1
    started: float = field(default_factory=time.perf_counter)
    stage_started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.span = tracing.start_image_span(self.rpc)
        self._deadline = asyncio.timeout(self.timeout)
        self._in_flight = False

    def set_subject(self, tokenizer: str, k: int) -> None:
        """Set the tokenizer and number of tokens that the call is about."""
        self.tokenizer, self.k, self.budget = tokenizer, k, metrics.budget_label(k)

    def begin_flight(self) -> None:
        """The call has its permit: the stage "admission" ends, and its image is in flight."""
        self.end_stage("admission")
        self._in_flight = True
        metrics.IMAGES_IN_FLIGHT.labels(self.rpc).inc()

    def end_stage(self, stage: str) -> None:
        """Name the stage that ends now; the next one begins. A stage may come more than once."""
        now = time.perf_counter()
        seconds = now - self.stage_started
        self.stage_started = now
        self._add(stage, seconds)
        self.span.add_stage(stage, seconds)

    def add_inference(self, inference: Inference) -> None:
        """Add queue and compute time of an inference that ended now; the next stage begins."""
        if inference.queue_seconds is not None:
            self._add("engine_queue", inference.queue_seconds)
        self._add("engine", inference.compute_seconds)
        self.stage_started = time.perf_counter()

    def _add(self, stage: str, seconds: float) -> None:
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    async def __aenter__(self) -> Self:
        await self._deadline.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._deadline.__aexit__(kind, error, traceback)
            if isinstance(error, TimeoutError):
                raise error
        except TimeoutError as timeout:
            late = DeadlineExceeded("the deadline passed before the result was there")
            self._record(late)
            raise late from timeout
        self._record(error)

    def _record(self, error: BaseException | None) -> None:
        if self._in_flight:
            metrics.IMAGES_IN_FLIGHT.labels(self.rpc).dec()
        match error:
            case None:
                metrics.IMAGES.labels(self.rpc).inc(self.images)
                for stage, seconds in self.stages.items():
                    metrics.STAGE_SECONDS.labels(self.rpc, stage, self.budget).observe(seconds)
                self._close("OK")
            case ServiceError():
                self._close(error.code, "; ".join([error.detail, *getattr(error, "__notes__", [])]))
            case asyncio.CancelledError():
                late = deadline_passed(time.perf_counter() - self.started, self.timeout)
                self._close(DeadlineExceeded.code if late else "CANCELLED")
            case _:
                self._close(ServiceError.code)

    def _close(self, code: str, why: str = "") -> None:
        """Report the outcome: OK, CANCELLED or the code of an error.

        Faults of the service and slow calls are logged; callers' mistakes are not.
        """
        seconds = time.perf_counter() - self.started
        metrics.REQUEST_SECONDS.labels(self.rpc, code).observe(seconds)
        if code != "OK":
            metrics.ERRORS.labels(self.rpc, code).inc()
        ours = is_ours(code)
        self.span.end(code, ours, {"tokenizer": self.tokenizer, "k": self.k})
        untimed = sum(self.stages.get(stage, 0.0) for stage in self.untimed_stages)
        # A plain ServiceError is logged with its traceback where it becomes a reply.
        if ours and code != ServiceError.code:
            log.error("call_failed", why=why, **self._facts(code, seconds))
        elif seconds - untimed > self.slow_seconds:
            log.warning("slow_call", **self._facts(code, seconds))

    def _facts(self, code: str, seconds: float) -> dict[str, Any]:
        return {
            "rpc": self.rpc,
            "code": code,
            "tokenizer": self.tokenizer,
            "k": self.k,
            "seconds": round(seconds, 6),
            "stages": {stage: round(taken, 6) for stage, taken in self.stages.items()},
        }
