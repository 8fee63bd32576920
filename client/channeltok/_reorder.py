"""Stream results back into the order of the source; which items are in flight, timeouts, and what
a new call sends again.

    source -> Outbox -> [ the service, in any order ] -> Reply -> Window -> the caller, in order

Both clients turn what happens into events on one queue, so the window has one owner and needs no
lock.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from channeltok._channel import MAX_ATTEMPTS, backoff
from channeltok.errors import (
    ChannelTokError,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    Unavailable,
)

T = TypeVar("T")
Q = TypeVar("Q", bound="Queue")


@dataclass(frozen=True)
class Sent:
    """An item is about to be sent. Queued before its reply can arrive."""

    number: int


@dataclass(frozen=True)
class Reply(Generic[T]):
    """The service replied to an item, with a result or an error."""

    number: int
    result: T | ChannelTokError


@dataclass(frozen=True)
class SourceEnded:
    """The source has no more items, or raised `error`."""

    error: Exception | None


@dataclass(frozen=True)
class CallEnded:
    """The service ended the call: None for OK."""

    error: ChannelTokError | None


Event = Sent | Reply[T] | SourceEnded | CallEnded


class Queue(Protocol):
    """queue.SimpleQueue, asyncio.Queue."""

    def put_nowait(self, item: Any) -> None: ...


class Outbox(Generic[Q]):
    """Requests on their way to the current call, and those without an answer, for the next one.

    The source's side calls `send` and `close`; the caller's side all else. make_queue: makes the
    queue from which a call takes its requests; None in it ends them.
    """

    def __init__(self, make_queue: Callable[[], Q]) -> None:
        self._make_queue = make_queue
        self._lock = threading.Lock()
        self._unanswered: dict[int, Any] = {}  # in the order of the source
        self._queue = make_queue()
        self._closed = False

    def send(self, number: int, request: Any) -> None:
        with self._lock:
            self._unanswered[number] = request
            self._queue.put_nowait(request)

    def close(self) -> None:
        """The source has ended: no more requests."""
        with self._lock:
            self._closed = True
            self._queue.put_nowait(None)

    def forget(self, number: int) -> None:
        """The item was answered: it is never sent again."""
        with self._lock:
            self._unanswered.pop(number, None)

    def next_call(self) -> Q:
        """The queue of a new call: all without an answer, then those that follow."""
        with self._lock:
            self._queue.put_nowait(None)  # the former call takes no more
            self._queue = self._make_queue()
            for request in self._unanswered.values():
                self._queue.put_nowait(request)
            if self._closed:
                self._queue.put_nowait(None)
            return self._queue


class Window(Generic[T]):
    """Returns results in the order of the source: items 0, 1, 2, ...

    timeout: seconds to wait for the next reply while at least one item is in flight. Time that
    the source or the caller takes does not count. retries: whether another call may follow one
    that ended early.
    """

    def __init__(
        self, timeout: float, retries: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.finished = False
        self._timeout = timeout
        self._attempts = MAX_ATTEMPTS if retries else 1
        self._failed: list[ChannelTokError] = []  # errors of the calls since the latest reply
        self._clock = clock
        self._in_flight: set[int] = set()
        self._early: dict[int, T | ChannelTokError] = {}
        self._next = 0
        self._source_ended: SourceEnded | None = None
        self._waiting_since: float | None = None

    def remaining(self) -> float | None:
        """Seconds left to wait for the next event; None while waiting for the source alone."""
        if not self._in_flight and self._source_ended is None:
            return None
        if self._waiting_since is None:
            self._waiting_since = self._clock()
        return max(0.0, self._waiting_since + self._timeout - self._clock())

    def take(self, event: Event[T]) -> list[T | ChannelTokError]:
        """Process an event and return the results that are next in order.

        Raises the error that ends the stream: the service's, or what the source raised.
        """
        match event:
            case Sent(number):
                if not self._in_flight:
                    self._waiting_since = None
                self._in_flight.add(number)
            case Reply(number, result):
                if number not in self._in_flight:
                    raise InternalError(
                        "INTERNAL", f"the service answered item {number}, which is not in flight"
                    )
                self._waiting_since = None
                self._failed.clear()
                self._in_flight.remove(number)
                self._early[number] = result
                return self._in_order()
            case SourceEnded():
                self._source_ended = event
            case CallEnded(error):
                if not self._all_answered():
                    raise error or _ended_early()
                self._finish()
        return []

    def delay(self, event: Event[T]) -> float | None:
        """Seconds to wait before a new call for what was not answered; None where none follows.

        A call that ended is worth another where the service was away or refused it, until
        MAX_ATTEMPTS in a row brought no reply.
        """
        if not isinstance(event, CallEnded) or self._all_answered():
            return None
        error = event.error or _ended_early()
        self._failed.append(error)
        remaining = self.remaining()
        if not isinstance(error, (Unavailable, Overloaded)) or len(self._failed) >= self._attempts:
            return None
        delay = error.retry_after or backoff(len(self._failed))
        return None if remaining is not None and delay >= remaining else delay

    def time_out(self) -> None:
        """No event came within `remaining()`. Raises DeadlineExceeded if replies are missing, or
        why the latest call ended."""
        if not self._all_answered():
            if self._failed:
                raise self._failed[-1]
            missing = len(self._in_flight)
            raise DeadlineExceeded(
                "DEADLINE_EXCEEDED",
                f"no answer for {self._timeout:g} s, with {missing} items in flight",
            )
        self._finish()

    def _in_order(self) -> list[T | ChannelTokError]:
        ready = []
        while self._next in self._early:
            ready.append(self._early.pop(self._next))
            self._next += 1
        return ready

    def _all_answered(self) -> bool:
        return self._source_ended is not None and not self._in_flight

    def _finish(self) -> None:
        self.finished = True
        if self._source_ended is not None and self._source_ended.error is not None:
            raise self._source_ended.error


def _ended_early() -> Unavailable:
    return Unavailable("UNAVAILABLE", "the service ended the stream before every item was answered")
