"""Who is worked on now, who waits for a place, and who is refused.

Only `limit` pictures are in the engine at once: enough to fill its batches. More would wait inside Triton, where they can be neither
refused nor overtaken. The others wait here:

- interactive ones (single calls) first, and briefly. A burst is ridden out for `max_wait` seconds. Where the queue has not been empty for
  that long, it is no burst but overload, and whoever is not served within a quarter of it is refused: a standing queue makes everybody late
  and serves nobody more (Nichols and Jacobson, Controlling Queue Delay, 2012; here with the time-outs of Maurer, Fail at Scale, 2015).
- bulk ones (items of a stream) for as long as their callers do, which slows the sender down: that is what a stream's flow control is for.
  One place of `BULK_SHARE` goes to them also under interactive overload.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum

from service import metrics
from service.errors import Overloaded, Stopping

RETRY_AFTER_SECONDS = 1.0
BULK_SHARE = 8
OVERLOAD_PATIENCE = 0.25  # of max_wait


class Priority(StrEnum):
    """interactive: somebody waits for this one answer. bulk: one of many, in a stream."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Admission:
    """`limit` places, one per picture.

    max_waiting: interactive pictures in the queue at most. max_wait: seconds they stay there at most.
    """

    def __init__(self, limit: int, max_waiting: int, max_wait: float) -> None:
        self.closed = asyncio.Event()
        self._limit, self._max_waiting, self._max_wait = limit, max_waiting, max_wait
        self._in_flight = 0
        self._queues: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}
        self._empty_at = 0.0  # when an interactive picture last found nobody before it
        self._turns = 0
        self._idle = asyncio.Event()
        self._idle.set()
        metrics.MAX_IN_FLIGHT.set(limit)

    @asynccontextmanager
    async def place(self, priority: Priority) -> AsyncIterator[None]:
        """Hold a place. Raises Overloaded when an interactive picture gets none in time, Stopping once closed."""
        await self._enter(priority)
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Refuse whatever comes from now on. What is in flight or waits goes on."""
        self.closed.set()

    def refuse_if_closed(self) -> None:
        """Raises Stopping once closed."""
        if self.closed.is_set():
            raise Stopping("the service is stopping: try again, another one may answer", RETRY_AFTER_SECONDS)

    async def idle(self, timeout: float) -> int:
        """Wait until nothing is in flight, `timeout` seconds at most. Returns how many pictures still are."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return self._in_flight + sum(map(len, self._queues.values()))
        return 0

    async def _enter(self, priority: Priority) -> None:
        self.refuse_if_closed()
        if self._in_flight < self._limit:  # so nobody waits: places are handed on
            self._in_flight += 1
            self._idle.clear()
            return
        queue = self._queues[priority]
        patience = self._patience() if priority is Priority.INTERACTIVE else None
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            with metrics.WAITING.labels(priority).track_inprogress():
                async with asyncio.timeout(patience):
                    await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._leave()  # it came too late
            elif turn in queue:
                queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._refusal() from error
            raise

    def _patience(self) -> float:
        """Seconds that an interactive picture which comes now may wait. Raises Overloaded when the queue is full."""
        now, waiting = time.monotonic(), len(self._queues[Priority.INTERACTIVE])
        if not waiting:
            self._empty_at = now
        if waiting >= self._max_waiting:
            raise self._refusal()
        return self._max_wait * (OVERLOAD_PATIENCE if now - self._empty_at > self._max_wait else 1)

    def _refusal(self) -> Overloaded:
        return Overloaded(f"{self._limit} pictures are in work, the limit, and others wait: try again", RETRY_AFTER_SECONDS)

    def _leave(self) -> None:
        """Hand the place on."""
        interactive, bulk = self._queues[Priority.INTERACTIVE], self._queues[Priority.BULK]
        while interactive or bulk:
            self._turns += 1
            queue = bulk if bulk and (not interactive or self._turns % BULK_SHARE == 0) else interactive
            turn = queue.popleft()
            if not turn.done():  # else its caller is gone, and about to notice
                turn.set_result(None)
                return
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()
