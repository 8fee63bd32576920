"""EngineHealth: last reply, number of replies and suspected hang or fault of each Triton model.

The Triton client records them; the probe and the supervisor decide on them.
"""

import math
import time
from dataclasses import dataclass

from service.errors import EngineUnavailable, Overloaded, ServiceError
from service.triton.models import Model

# Retry-After while an engine restarts, a model loads or Triton's queue is full.
ENGINE_RETRY_SECONDS = 2.0
# If a request sent this many seconds later has already been answered, the process that holds the
# older one hangs. A full batch takes longer than the single image that overtakes it, so the
# margin is at least as long as EXECUTIONS of the longest runs.
OVERTAKEN_SECONDS = 5.0
EXECUTIONS = 4


@dataclass
class ModelHealth:
    """Health of one model. All times are seconds of time.perf_counter.

    newest_sent: send time of the newest answered request. last_reply_at: time of the last reply.
    replies: number of replies, in images. longest_run: seconds of the engine's longest execution.
    has_unfinished_stream: a stream was abandoned before its end, so later callers do not reset
    the time of silence.
    """

    newest_sent: float
    last_reply_at: float
    replies: int = 0
    longest_run: float = 0.0
    has_unfinished_stream: bool = False

    def record_reply(self, sent: float, images: int = 1) -> None:
        """Record that the request sent at `sent` has been answered now."""
        self.last_reply_at = time.perf_counter()
        self.newest_sent = max(sent, self.newest_sent)
        self.replies += images


class EngineHealth:
    """Health of all models of one Triton.

    suspected_at: models that failed a request through a fault of their own -> send time of the
    newest such request. All times are seconds of time.perf_counter, which all processes share.
    """

    def __init__(self, overtaken_seconds: float = OVERTAKEN_SECONDS) -> None:
        self.suspected_at: dict[str, float] = {}
        self._overtaken_seconds = overtaken_seconds
        self._failed_at: dict[str, float] = {}
        self._models: dict[str, ModelHealth] = {}

    def for_model(self, model: Model) -> ModelHealth:
        """Return the model's record; the first call starts it."""
        if model.name not in self._models:
            self._models[model.name] = ModelHealth(0.0, time.perf_counter())
        return self._models[model.name]

    def forget(self, name: str) -> None:
        """Discard the record of a model whose processes were replaced.

        The new ones are neither silent nor overtaken. `failed_at` and `suspected_at` stay. No error
        for a model that got no request.
        """
        self._models.pop(name, None)

    def silent_seconds(self, model: Model) -> float:
        """Seconds since the last reply, or since the first request; 0 if there was none."""
        now = time.perf_counter()
        return now - self._models[model.name].last_reply_at if model.name in self._models else 0.0

    def count(self, model: Model) -> int:
        """Number of images that the model has answered so far."""
        return self._models[model.name].replies if model.name in self._models else 0

    def failed_at(self, model: Model) -> float:
        """Time of the last request that got no answer; -inf if all got one."""
        return self._failed_at.get(model.name, -math.inf)

    def suspect(self, name: str, sent: float) -> None:
        """Mark a model for repair: a request sent at `sent` failed through the model's fault.

        The request may have been another worker's.
        """
        self._failed_at[name] = time.perf_counter()
        self.suspected_at[name] = max(sent, self.suspected_at.get(name, sent))

    def record_abandoned(self, model: Model, sent: float) -> None:
        """Record that the caller of a request timed out or disconnected.

        The model is suspected if the request was overtaken: Triton serves its queue in order, so
        one process of the model hangs, even if its other processes work.
        """
        self._failed_at[model.name] = time.perf_counter()
        if self.is_overtaken(model, sent):
            self.suspect(model.name, sent)

    def is_overtaken(self, model: Model, sent: float) -> bool:
        """Whether requests sent so much later than `sent` are answered that its process hangs."""
        health = self.for_model(model)
        margin = max(self._overtaken_seconds, EXECUTIONS * health.longest_run)
        return health.newest_sent - sent > margin

    def record_failure(self, model: Model, sent: float, details: str) -> ServiceError:
        """Return the error for callers; suspect the model unless its queue was merely full.

        details: Triton's message, which goes to the log only.
        """
        error = error_from_triton(details)
        error.add_note(f"Triton says: {details}")
        if isinstance(error, EngineUnavailable):
            self.suspect(model.name, sent)
        return error


def error_from_triton(details: str) -> ServiceError:
    """Translate a message of Triton, which reports a full queue as UNAVAILABLE too."""
    if "maximum queue size" in details:
        return Overloaded("the engine's queue is full: try again", ENGINE_RETRY_SECONDS)
    return EngineUnavailable("the engine is down or restarting: try again", ENGINE_RETRY_SECONDS)
