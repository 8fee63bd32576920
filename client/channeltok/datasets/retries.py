"""When to try again: attempts at a shard, and one patience for the engine, shared by all shards.

A failure counts against a shard only where the engine answered somebody in the meantime, or where
the source failed. While the engine answers nobody, all shards wait together, as long as the
patience lasts; then the run ends.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from channeltok.datasets.errors import DatasetError, EngineGone
from channeltok.errors import (
    ChannelTokError,
    FingerprintMismatch,
    Unauthenticated,
    UnknownTokenizer,
)

MAX_ATTEMPTS = 5  # at one shard; then the run goes on without it and reports it
BACKOFF_SECONDS = 1.0  # before the second attempt; doubles each time
MAX_BACKOFF_SECONDS = 30.0
PATIENCE_SECONDS = 120.0
_REFUSALS = (FingerprintMismatch, Unauthenticated, UnknownTokenizer)


class SourceFailed(Exception):
    """Reading a shard failed, perhaps not for ever; `__cause__` says how."""


class Wait:
    """What one attempt at a shard has sent to the engine and not got back. For one attempt each.

    The time in which the source is read does not count.
    """

    def __init__(self, patience: "Patience") -> None:
        self._patience = patience
        self.unanswered = 0
        self.since: float | None = None

    def sent(self) -> None:
        """An image goes to the engine."""
        with self._patience.lock:
            self.unanswered += 1
            self.since = self._patience.now()

    def reading(self) -> None:
        """The next image is awaited from the source."""
        with self._patience.lock:
            self.since = None

    def read_all(self) -> None:
        """The source has no more images."""
        with self._patience.lock:
            self.since = self._patience.now() if self.unanswered else None

    def answered(self) -> None:
        """The engine answered an image: with tokens, or with an error of this image."""
        with self._patience.lock:
            self.unanswered -= 1
            self._patience.count_answer()
            self.since = self._patience.now() if self.unanswered else None


class Patience:
    """How long the engines, taken together, have not answered anybody. Thread-safe.

    Args:
        seconds: after so long without an answer the run ends; above 0.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, seconds: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not seconds > 0:
            raise ValueError(f"patience is more than 0 seconds, not {seconds:g}")
        self.seconds, self.now = seconds, clock
        self.lock = threading.Lock()
        self.answers = 0
        self.failures = 0  # of the engine since its last answer
        self._refusals = 0  # among them
        self.reason = ""  # of the last of them
        self._failing_since: float | None = None
        self._last_answer = clock()
        self._waits: set[Wait] = set()

    @contextmanager
    def waiting(self) -> Iterator[Wait]:
        """Watch one attempt at a shard."""
        wait = Wait(self)
        with self.lock:
            self._waits.add(wait)
        try:
            yield wait
        except ChannelTokError as error:
            with self.lock:
                self.failures += 1
                self._refusals += isinstance(error, _REFUSALS)
                self.reason = str(error)
                since = wait.since if wait.since is not None else self.now()
                if self._failing_since is None:
                    self._failing_since = max(since, self._last_answer)
            raise
        finally:
            with self.lock:
                self._waits.discard(wait)

    def count_answer(self) -> None:
        """The engine answered. Call it with `lock` held."""
        self.answers += 1
        self.failures = self._refusals = 0
        self._failing_since = None
        self._last_answer = self.now()

    def silence(self) -> float:
        """Seconds for which the engine owes an answer; 0 if it owes none."""
        with self.lock:
            owed = [wait.since for wait in self._waits if wait.since is not None]
            if self._failing_since is not None:
                owed.append(self._failing_since)
            if not owed:
                return 0.0
            return self.now() - max(self._last_answer, min(owed))

    def check(self) -> float:
        """`silence()`. Raises EngineGone when it is longer than `seconds`, or all are refused."""
        silence = self.silence()
        if self._refusals >= MAX_ATTEMPTS:
            raise EngineGone(f"the engine refuses this run: {self.reason}")
        if silence > self.seconds:
            because = f"; the last failure: {self.reason}" if self.reason else ""
            raise EngineGone(
                f"the engine has not answered for {silence:.0f} s, longer than the patience of "
                f"{self.seconds:g} s{because}"
            )
        return silence


@dataclass(frozen=True)
class Verdict:
    """What follows from a failed attempt.

    Attributes:
        reason: of the failure, for people.
        retry: whether the shard is tried again.
        delay: seconds until then.
        counts: whether the attempt counts as one of MAX_ATTEMPTS.
        all_wait: whether other shards had better wait, too.
    """

    reason: str
    retry: bool
    delay: float = 0.0
    counts: bool = True
    all_wait: bool = False


def judge(error: Exception, attempt: int, answers_before: int, patience: Patience) -> Verdict:
    """What follows from `error` of an attempt at a shard.

    Args:
        error: what ended the attempt.
        attempt: its number, from 0.
        answers_before: `patience.answers` when the attempt began.
        patience: of the run.
    """
    cause = error.__cause__ if isinstance(error, SourceFailed) else error
    reason = describe(cause if isinstance(cause, Exception) else error)
    # A second attempt would meet the same damage, the same schema, the same name.
    if isinstance(error, (DatasetError, ValueError)) or isinstance(cause, DatasetError):
        return Verdict(reason, retry=False)
    if isinstance(error, ChannelTokError):
        asked = error.retry_after or 0.0
        if patience.answers == answers_before:
            delay = max(asked, backoff(patience.failures - 1))
            return Verdict(reason, retry=True, delay=delay, counts=False, all_wait=True)
        delay = max(asked, backoff(attempt))
        return Verdict(reason, attempt < MAX_ATTEMPTS - 1, delay)
    return Verdict(reason, attempt < MAX_ATTEMPTS - 1, backoff(attempt))


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures before this one."""
    return float(min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** min(max(0, failures), 16)))


def describe(error: Exception) -> str:
    """An error in one line; its class where the text alone would say too little."""
    if isinstance(error, (DatasetError, ChannelTokError)):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
