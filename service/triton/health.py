"""What Triton's client remembers of each model: when it answered last, how often, and whom it failed. The supervisor looks here."""

import math
import time
from dataclasses import dataclass

from service.errors import EngineUnavailable, Overloaded, ServiceError
from service.triton.models import Model

RETRY_AFTER_SECONDS = 2.0
OVERTAKEN_SECONDS = 5.0  # what waits though others that were sent so much later are answered is in a process that hangs
EXECUTIONS = 4  # or as long as so many of the longest runs: a full batch takes longer than the single image that overtakes it


@dataclass
class ModelHealth:
    """Of one model: when the latest inference that was answered was sent, when the last answer came, and how many there were.

    execution: seconds of the longest run of the engine. has_unfinished_stream: a stream was left before its end; then `at` counts on, whoever asks next.
    """

    sent: float
    at: float
    count: int = 0
    execution: float = 0.0
    has_unfinished_stream: bool = False

    def record_reply(self, sent: float, images: int = 1) -> None:
        """Note that what was sent then is answered now. Seconds of time.perf_counter, as all here."""
        self.at = time.perf_counter()
        self.sent = max(sent, self.sent)
        self.count += images


class EngineHealth:
    """suspected_at: models whose inference failed for a cause of theirs -> when the last such one was sent."""

    def __init__(self) -> None:
        self.suspected_at: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}
        self._answered: dict[str, ModelHealth] = {}

    def for_model(self, model: Model) -> ModelHealth:
        """Its record, begun now where it was never asked."""
        if model.name not in self._answered:
            self._answered[model.name] = ModelHealth(sent=0.0, at=time.perf_counter())
        return self._answered[model.name]

    def silent_seconds(self, model: Model) -> float:
        """Seconds since the model answered last, or was first asked; 0 where it never was."""
        now = time.perf_counter()
        return now - self._answered[model.name].at if model.name in self._answered else 0.0

    def count(self, model: Model) -> int:
        """Inferences that it answered so far."""
        return self._answered[model.name].count if model.name in self._answered else 0

    def failed_at(self, model: Model) -> float:
        """When somebody last got no answer from it, in seconds of time.perf_counter; -inf where all did."""
        return self._failed_at.get(model.name, -math.inf)

    def suspect(self, name: str, sent: float) -> None:
        """The model is to be looked after: what was asked of it at `sent`, here or by a worker, failed for a cause of its own. Seconds of
        time.perf_counter are the same in all processes."""
        self._failed_at[name] = time.perf_counter()
        self.suspected_at[name] = max(sent, self.suspected_at.get(name, sent))

    def record_abandoned(self, model: Model, sent: float) -> None:
        """Somebody no longer waits for what was asked then: his deadline passed, or he left. Triton takes what waits in turn: where
        younger ones have long been answered, an engine process hangs, though others of the same model work."""
        self._failed_at[model.name] = time.perf_counter()
        answered = self.for_model(model)
        if answered.sent - sent > max(OVERTAKEN_SECONDS, EXECUTIONS * answered.execution):
            self.suspect(model.name, sent)

    def failure(self, model: Model, sent: float, details: str) -> ServiceError:
        """What callers are told of an inference that Triton says this of; the model is looked after where the fault is its own."""
        known = error_from_triton(details)
        known.add_note(f"Triton says: {details}")  # for the log; callers see `detail` only
        if isinstance(known, EngineUnavailable):
            self.suspect(model.name, sent)
        return known


def error_from_triton(details: str) -> ServiceError:
    """What Triton says in ours. It says UNAVAILABLE for a full queue, which must not look like an outage."""
    if "maximum queue size" in details:
        return Overloaded("the engine's queue is full: try again", RETRY_AFTER_SECONDS)
    return EngineUnavailable("the engine is down or restarting: try again", RETRY_AFTER_SECONDS)
