"""Which of several engines the next attempt uses, and what tokenizer they have in common."""

import threading
import time
from collections.abc import Sequence

from channeltok._messages import TokenizerInfo
from channeltok.datasets.shard import Engine
from channeltok.errors import DeadlineExceeded

AVOID_SECONDS = 30.0  # an engine that has failed, while another has not
FIRST_ANSWER_SECONDS = 10.0


class EngineChoice:
    """Spreads shards over engines, away from those that failed lately. Thread-safe."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._failed = [-AVOID_SECONDS] * len(engines)

    def choose(self, number: int) -> int:
        """Index of the engine for attempt `number` of the run."""
        now = time.monotonic()
        indices = range(len(self._engines))
        well = [index for index in indices if now - self._failed[index] > AVOID_SECONDS]
        if well:
            return well[number % len(well)]
        return min(indices, key=lambda index: self._failed[index])

    def failed(self, index: int) -> None:
        """The engine of this index has just failed."""
        self._failed[index] = time.monotonic()

    def __getitem__(self, index: int) -> Engine:
        return self._engines[index]


def choose_tokenizer(engines: Sequence[Engine], name: str | None) -> TokenizerInfo:
    """The tokenizer of that name (None: the first) in all engines.

    Raises:
        ValueError: an engine lacks it, or has it from another training.
        ChannelTokError: an engine cannot be reached; within seconds.
    """
    choices = []
    for number, engine in enumerate(engines, 1):
        served = _first_answer(engine, f"engine {number} of {len(engines)}")
        choice = next((info for info in served if name in (None, info.name)), None)
        if choice is None:
            names = ", ".join(info.name for info in served) or "none"
            raise ValueError(f"no tokenizer is called {name!r}; there are: {names}")
        choices.append(choice)
    first = choices[0]
    if different := {info.fingerprint for info in choices} - {first.fingerprint}:
        raise ValueError(
            f"the engines differ: tokenizer {first.name!r} is {first.fingerprint} in one and "
            f"{min(different)} in another"
        )
    return first


def _first_answer(engine: Engine, what: str) -> list[TokenizerInfo]:
    """`engine.tokenizers()`, or DeadlineExceeded from one that accepts calls and never answers."""
    answers: list[list[TokenizerInfo]] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(engine.tokenizers())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask, name="first-answer", daemon=True)
    thread.start()
    thread.join(FIRST_ANSWER_SECONDS)
    if errors:
        raise errors[0]
    if not answers:
        raise DeadlineExceeded(
            "DEADLINE_EXCEEDED",
            f"{what} did not say what it serves within {FIRST_ANSWER_SECONDS:g} s: it hangs, or "
            "something else listens at its address",
        )
    return answers[0]
