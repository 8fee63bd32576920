"""Who is worked on now, who waits for a place, and who is refused.

Only `limit` images are in the engine at once: enough to fill its batches. More would wait inside Triton, where they can be neither
refused nor overtaken. The others wait here:

- interactive ones (single calls) first, and briefly: where the wait ahead is longer than `max_queue_seconds`, the call is refused at once. Little's
  law tells it: with all places taken, one becomes free every (mean time in a place) / limit.
- bulk ones (items of a stream) for as long as their callers do, which slows the sender down: that is what a stream's flow control is for.
  One place of `BULK_SHARE` goes to them also under interactive overload.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

from prometheus_client import Gauge

from service.errors import Overloaded, Stopping
from service.observability import metrics

RETRY_AFTER_SECONDS = 1.0
BULK_SHARE = 8
LATEST = 1 / 16  # weight of the latest time in a place, in their moving average


class Priority(StrEnum):
    """interactive: somebody waits for this one answer. bulk: one of many, in a stream."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Permit:
    """An image's. It is free when its holder has left it and all the work that it waits for is done."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._free, self._held = free, 1

    def hold_until(self, work: asyncio.Future[Any]) -> None:
        """Not to be free before `work` is done: what is in the engine takes its time, whether or not its caller has left."""
        self._held += 1
        work.add_done_callback(lambda _: self.release())

    def release(self) -> None:
        self._held -= 1
        if not self._held:
            self._free()


class Admission:
    """`limit` places, one per image.

    max_queue_size: interactive images in the queue at most. max_queue_seconds: seconds that one may have to wait when it comes.
    what: the images' name in sentences. max_in_flight: tells the limit.
    """

    def __init__(
        self,
        limit: int,
        max_queue_size: int,
        max_queue_seconds: float,
        what: str = "images",
        max_in_flight: Gauge = metrics.IMAGES_IN_FLIGHT_LIMIT,
    ) -> None:
        self._what = what
        self.closed = asyncio.Event()
        self._limit, self._max_queue_size, self._max_queue_seconds = (
            limit,
            max_queue_size,
            max_queue_seconds,
        )
        self._in_flight = 0
        self._seconds = 0.0  # mean time in a place
        self._queues: dict[Priority, deque[asyncio.Future[None]]] = {
            priority: deque() for priority in Priority
        }
        self._turns = 0
        self._idle = asyncio.Event()
        self._idle.set()
        max_in_flight.set(limit)

    @asynccontextmanager
    async def acquire(
        self, priority: Priority, timeout: float | None = None
    ) -> AsyncIterator[Permit]:
        """Hold a place. timeout: seconds until nobody wants the image any more.

        Raises Overloaded when an interactive image would get none soon enough, Stopping once closed.
        """
        await self._admit(priority, timeout)
        entered = time.monotonic()

        def free() -> None:
            self._seconds += LATEST * (time.monotonic() - entered - self._seconds)
            self._release()

        permit = Permit(free)
        try:
            yield permit
        finally:
            permit.release()

    def close(self) -> None:
        """Refuse whatever comes from now on. What is in flight or waits goes on."""
        self.closed.set()

    def refuse_if_closed(self) -> None:
        """Raises Stopping once closed."""
        if self.closed.is_set():
            raise Stopping(
                "the service is stopping: try again, another one may answer", RETRY_AFTER_SECONDS
            )

    async def idle(self, timeout: float) -> int:
        """Wait until nothing is in flight, `timeout` seconds at most. Returns how many images still are."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return self._in_flight + sum(map(len, self._queues.values()))
        return 0

    async def _admit(self, priority: Priority, timeout: float | None) -> None:
        self.refuse_if_closed()
        if self._in_flight < self._limit:  # so nobody waits: places are handed on
            self._in_flight += 1
            self._idle.clear()
            return
        queue = self._queues[priority]
        if priority is Priority.INTERACTIVE:
            wait = (len(queue) + 1) * self._seconds / self._limit
            too_late = timeout is not None and wait + self._seconds > timeout
            if len(queue) >= self._max_queue_size or wait > self._max_queue_seconds or too_late:
                said = f"{self._limit} {self._what} are in work, the limit, and {len(queue)} wait: try again"
                raise Overloaded(said, max(RETRY_AFTER_SECONDS, wait))
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            with metrics.IMAGES_WAITING.labels(priority).track_inprogress():
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._release()  # the place came when its caller was gone
            elif turn in queue:
                queue.remove(turn)
            raise

    def _release(self) -> None:
        """Hand the place on."""
        interactive, bulk = self._queues[Priority.INTERACTIVE], self._queues[Priority.BULK]
        while interactive or bulk:
            self._turns += 1
            queue = (
                bulk if bulk and (not interactive or self._turns % BULK_SHARE == 0) else interactive
            )
            turn = queue.popleft()
            if not turn.done():  # else its caller is gone, and about to notice
                turn.set_result(None)
                return
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()
