"""Admission queue: which images run now, which wait for a permit, and which are refused.

At most `limit` images are in the engine at once or next in line, enough to fill its batches, which
are larger where many wait. The others wait here:

- Interactive images (single calls) go first and wait briefly: if the expected wait exceeds
  `max_queue_seconds`, the call is refused at once. With all permits taken, one is released every
  (mean seconds held) / limit, by Little's law.
- Bulk images (items of a stream) wait as long as their callers do; flow control slows the sender
  down. They never hold the last quarter of the permits, so that an interactive image rarely waits
  for one. One permit in `BULK_SHARE` goes to them even under interactive overload.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Self

from prometheus_client import Gauge

from service.errors import Overloaded, Stopping
from service.observability import metrics

# Smallest Retry-After of a refused call: shorter ones would only add load.
MIN_RETRY_SECONDS = 1.0
BULK_SHARE = 8
RESERVED_SHARE = 4  # one permit of so many is never for bulk images
LATEST_WEIGHT = 1 / 16  # of the newest sample in the moving average of seconds held


class Priority(StrEnum):
    """interactive: a caller waits for this one answer. bulk: one item of a stream."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Permit:
    """Permit for one image: `async with` waits for it and holds it.

    Released once its holder exits and all engine work started under it has finished.
    bulk: whether interactive images go first.
    """

    __slots__ = (
        "_accepted",
        "_admission",
        "_admitted",
        "_counts",
        "_holders",
        "_priority",
        "_timeout",
        "bulk",
    )

    def __init__(
        self, admission: "Admission", priority: Priority, timeout: float | None, accepted: bool
    ) -> None:
        """For Admission.acquire, which explains the parameters."""
        self.bulk = priority is Priority.BULK
        self._admission = admission
        self._priority = priority
        self._timeout = timeout
        self._accepted = accepted
        self._admitted = 0.0
        self._counts = True
        self._holders = 1

    async def __aenter__(self) -> Self:
        if not self._accepted:
            self._admission.check(self._priority, self._timeout)
        await self._admission._wait(self._priority)
        self._admitted = self._admission._clock()
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        # A caller that left before its image was in the engine, or whose image could not be read,
        # says nothing of how long an image takes.
        self._counts = error is None or self._holders > 1
        self.release()

    def hold_until(self, work: asyncio.Future[Any]) -> None:
        """Keep the permit until `work` is done, even if the caller has disconnected by then."""
        self._holders += 1
        work.add_done_callback(lambda _: self.release())

    def release(self) -> None:
        """Give up one hold; the last one releases the permit."""
        self._holders -= 1
        if not self._holders:
            held = self._admission._clock() - self._admitted
            self._admission._release_after(held if self._counts else None)


class Admission:
    """Queue for permits, one per image."""

    def __init__(
        self,
        limit: Callable[[int], int],
        max_queue_size: int,
        max_queue_seconds: float,
        noun: str = "images",
        limit_gauge: Gauge = metrics.IMAGES_IN_FLIGHT_LIMIT,
        waiting_gauge: Callable[[Priority], Gauge] = metrics.IMAGES_WAITING.labels,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """limit: how many permits there are, for so many images that have one or wait for one.
        max_queue_size: interactive images that may wait.
        max_queue_seconds: longest expected wait of one on arrival. noun: what messages call the
        images. limit_gauge: set to the limit. waiting_gauge: counts the images that wait, by
        priority.
        """
        self._limit = limit
        self._limit_gauge = limit_gauge
        self._max_queue_size = max_queue_size
        self._max_queue_seconds = max_queue_seconds
        self._noun = noun
        self._waiting_gauge = waiting_gauge
        self._clock = clock
        self.closed = asyncio.Event()
        self._in_flight = 0
        self._mean_held_seconds = 0.0
        self._queues: dict[Priority, deque[asyncio.Future[None]]] = {
            priority: deque() for priority in Priority
        }
        self._turns = 0
        self._shown_limit = -1
        self._idle = asyncio.Event()
        self._idle.set()
        self.show_limit()

    def acquire(
        self, priority: Priority, timeout: float | None = None, accepted: bool = False
    ) -> Permit:
        """`async with` waits for a permit and holds it.

        timeout: seconds left to the caller's deadline.

        accepted: never refuse, because work was already done for this image. Otherwise raises what
        `check` raises.
        """
        return Permit(self, priority, timeout, accepted)

    def show_limit(self) -> None:
        """Set the gauge. To be called when `limit` may have changed by itself."""
        self._current_limit()

    def close(self) -> None:
        """Refuse new images from now on; those in flight or waiting go on."""
        self.closed.set()

    def refuse_if_closed(self) -> None:
        """Raises Stopping once closed."""
        if self.closed.is_set():
            raise Stopping(
                "the service is stopping: try again, another one may answer", MIN_RETRY_SECONDS
            )

    async def drain(self, timeout: float) -> int:
        """Wait until nothing is in flight; return the number of images left after `timeout`."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return self._in_flight + sum(map(len, self._queues.values()))
        return 0

    def check(self, priority: Priority, timeout: float | None = None) -> None:
        """Raises Overloaded if an interactive image would wait too long, Stopping once closed.

        timeout: seconds left to the caller's deadline.
        """
        self.refuse_if_closed()
        queue = self._queues[priority]
        limit = self._current_limit()
        if priority is not Priority.INTERACTIVE:
            return
        seconds_each = self._mean_held_seconds / limit
        if self._in_flight >= limit:
            wait = (len(queue) + 1) * seconds_each
            if len(queue) >= self._max_queue_size or wait > self._max_queue_seconds:
                raise Overloaded(
                    f"{limit} {self._noun} are running, the limit, and {len(queue)} wait:"
                    " try again",
                    max(MIN_RETRY_SECONDS, wait),
                )
        answer = (self._in_flight + len(queue) + 1) * seconds_each
        # Where nothing runs the mean may be of other times.
        if timeout is not None and self._in_flight and answer > timeout:
            raise Overloaded(
                f"{self._in_flight} {self._noun} are running and {len(queue)} wait: an answer takes"
                f" about {answer:.2g} s, and the deadline is in {max(timeout, 0):.2g} s; try again",
                max(MIN_RETRY_SECONDS, answer - timeout),
            )

    def _current_limit(self) -> int:
        limit = self._limit(self._in_flight + sum(map(len, self._queues.values())))
        if limit != self._shown_limit:
            self._shown_limit = limit
            self._limit_gauge.set(limit)
        return limit

    def _limit_of(self, priority: Priority) -> int:
        """Permits that images of this priority may take; the rest is kept for single calls."""
        limit = self._current_limit()
        return limit - (limit // RESERVED_SHARE if priority is Priority.BULK else 0)

    async def _wait(self, priority: Priority) -> None:
        queue = self._queues[priority]
        if not queue and self._in_flight < self._limit_of(priority):
            self._in_flight += 1
            self._idle.clear()
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._hand_out()  # the limit may be higher with one more who waits
        try:
            with self._waiting_gauge(priority).track_inprogress():
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._release()  # the permit came as its caller was cancelled
            elif turn in queue:
                queue.remove(turn)
            raise

    def _release_after(self, held_seconds: float | None) -> None:
        """held_seconds: None where they are not to count."""
        if held_seconds is not None:
            self._mean_held_seconds += LATEST_WEIGHT * (held_seconds - self._mean_held_seconds)
        self._release()

    def _release(self) -> None:
        """Hand the permit to the next in the queues, if anybody waits."""
        self._in_flight -= 1
        self._hand_out()
        if not self._in_flight:
            self._idle.set()

    def _hand_out(self) -> None:
        """Give free permits to those who wait."""
        interactive, bulk = self._queues[Priority.INTERACTIVE], self._queues[Priority.BULK]
        while interactive or bulk:
            priority = Priority.INTERACTIVE if interactive else Priority.BULK
            if self._in_flight >= self._limit_of(priority):
                break
            self._turns += 1
            take_bulk = bulk and (not interactive or self._turns % BULK_SHARE == 0)
            turn = (bulk if take_bulk else interactive).popleft()
            if not turn.done():  # otherwise its caller has just been cancelled
                self._in_flight += 1
                self._idle.clear()
                turn.set_result(None)
