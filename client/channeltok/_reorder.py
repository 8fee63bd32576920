"""Stream results back into the order of the source; which items are in flight, and timeouts.

    source -> Sent -> [ the service, in any order ] -> Reply -> Window -> the caller, in order

Both clients turn what happens into events on one queue, so this state has one owner and needs no
lock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from channeltok.errors import ChannelTokError, DeadlineExceeded, InternalError, Unavailable

T = TypeVar("T")


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


class Window(Generic[T]):
    """Returns results in the order of the source: items 0, 1, 2, ...

    timeout: seconds to wait for the next reply while at least one item is in flight. Time that
    the source or the caller takes does not count.
    """

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.finished = False
        self._timeout = timeout
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
                self._in_flight.remove(number)
                self._early[number] = result
                return self._in_order()
            case SourceEnded():
                self._source_ended = event
            case CallEnded(error):
                if not self._all_answered():
                    raise error or Unavailable(
                        "UNAVAILABLE", "the service ended the stream before every item was answered"
                    )
                self._finish()
        return []

    def time_out(self) -> None:
        """No event came within `remaining()`. Raises DeadlineExceeded if replies are missing."""
        if not self._all_answered():
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
