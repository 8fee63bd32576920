"""Memory budget: the bytes that messages and images may take, reserved before they take them.

Messages get at most half of the budget. The other half is always free for images, so a message
that waits for the memory of its image never waits for other messages.

A reservation that fits is made at once. Others wait: callers take turns, and a small reservation
passes larger ones that do not fit yet. While a message waits for memory, transfers that have lasted
for `GRACE_SECONDS` are ended, first those of the caller whose transfers hold the most. So callers
that send slowly, or nothing, keep nobody out.
"""

import asyncio
import math
import time
from collections import deque
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from service.core.rate_limit import caller
from service.errors import CannotStart, Overloaded
from service.observability import metrics
from service.settings import Settings

GRACE_SECONDS = 1.0  # that a transfer may take while others wait for memory
PATIENCE_SECONDS = 1.5  # that a single call waits for memory: longer than the grace of others
RECLAIM_SECONDS = 0.1  # between looks for transfers to end
RETRY_SECONDS = 1.0
# Of each gRPC call: 20 KiB of objects, 100 KiB that gRPC receives before we read.
CALL_BYTES = 128 * 2**10
# A message that arrives is there in pieces and in one; then in one and parsed; then parsed, and the
# image copied out of it.
COPIES = 2
CONNECTION_BYTES = 32 * 2**10  # of each connection: 17 KiB for HTTP/1.1 with a request
SPARE_SHARE = 0.1  # of the service at rest: under load the engines grow by 4 %
# Largest JSON, or protobuf without an image. A mebibyte of {},{},{} would take 0.1 s to parse,
# while every other call waits. The tokens of an image take a hundredth of this.
MAX_DOCUMENT_BYTES = 64 * 2**10
MAX_WAITING = 512  # calls that wait for memory hold some too, though little


class Use(StrEnum):
    """What the bytes are for."""

    MESSAGES = "messages"
    IMAGES = "images"


class Reservation:
    """Bytes of a budget, until they are released. A context manager that releases them."""

    __slots__ = ("_budget", "caller", "size", "use", "waiting")

    def __init__(self, budget: "MemoryBudget", use: Use) -> None:
        self._budget = budget
        self.use = use
        self.caller = caller.get()
        self.size = 0
        self.waiting = False

    def shrink(self, size: int) -> None:
        """Keep at most `size` bytes."""
        if size < self.size:
            self._budget._change(self, size)

    async def grow(self, size: int, patience: float | None = None) -> None:
        """Have at least `size` bytes; waits and raises as MemoryBudget.reserve does."""
        if size > self.size and not self._budget._take(self, size):
            await self._budget._wait(self, size, patience)

    def release(self) -> None:
        """Give back all bytes."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Holder(Protocol):
    """Who holds the memory of a transfer: a reservation, or several."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def waiting(self) -> bool:
        """Whether it waits for more of them."""


class Transfer:
    """`async with` around waiting for a peer: for its bytes, or for it to take ours.

    Raises TimeoutError after `seconds` (None: never), and Overloaded when others need the memory.
    """

    __slots__ = ("_budget", "_ended", "_timeout", "caller", "holder", "since")

    def __init__(self, budget: "MemoryBudget", seconds: float | None, holder: Holder) -> None:
        self._budget = budget
        self._timeout = asyncio.timeout(seconds)
        self._ended = False
        self.holder = holder
        self.caller = caller.get()
        self.since = 0.0

    def end(self) -> None:
        """Raise Overloaded where the transfer waits."""
        if not self._timeout.expired():
            self._ended = True
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self.since = time.monotonic()
        self._budget._transfers[self] = None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del self._budget._transfers[self]
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            if self._ended:
                raise self._budget._refusal("the transfer was slow, and others wait") from None
            raise


class _Waiter:
    __slots__ = ("ready", "reservation", "since", "size")

    def __init__(self, reservation: Reservation, size: int) -> None:
        self.reservation = reservation
        self.size = size
        self.since = time.monotonic()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def lacking(self) -> int:
        return self.size - self.reservation.size


class MemoryBudget:
    """`limit` bytes for the messages and images of one process."""

    def __init__(self, limit: int, grace: float = GRACE_SECONDS) -> None:
        self._grace = grace
        self._messages, self._images = 0, 0  # reserved bytes
        self._waiting: dict[str, list[_Waiter]] = {}  # by caller; the first is the next in turn
        self._transfers: dict[Transfer, None] = {}  # an ordered set, the oldest first
        self._reclaiming: asyncio.TimerHandle | None = None
        self._messages_gauge = metrics.MEMORY_RESERVED.labels(Use.MESSAGES)
        self._images_gauge = metrics.MEMORY_RESERVED.labels(Use.IMAGES)
        self.limit = limit

    @property
    def limit(self) -> int:
        """Bytes for messages and images together."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        metrics.MEMORY_LIMIT.set(limit)

    @property
    def largest(self) -> int:
        """The largest reservation that can succeed, for a message or an image."""
        return self._limit // 2

    @property
    def reserved(self) -> int:
        """Bytes that are reserved now."""
        return self._messages + self._images

    @property
    def waiting(self) -> int:
        """Number of reservations that wait for bytes."""
        return sum(map(len, self._waiting.values()))

    async def reserve(
        self, size: int, use: Use = Use.MESSAGES, patience: float | None = None
    ) -> Reservation:
        """Reserve `size` bytes for the current caller.

        patience: seconds to wait for them; None: as long as the caller does. Raises Overloaded
        after that, and at once if `size` is larger than `largest` or too many wait.
        """
        reservation = Reservation(self, use)
        if not self._take(reservation, size):
            await self._wait(reservation, size, patience)
        return reservation

    def transfer(self, seconds: float | None, holder: Holder) -> Transfer:
        """See Transfer. holder: of the bytes that ending it would free."""
        return Transfer(self, seconds, holder)

    def _fits(self, use: Use, more: int) -> bool:
        return self._messages + self._images + more <= self._limit and (
            use is Use.IMAGES or self._messages + more <= self._limit // 2
        )

    def _change(self, reservation: Reservation, size: int) -> None:
        """Set the size of a reservation, which must fit."""
        more = size - reservation.size
        reservation.size = size
        if reservation.use is Use.MESSAGES:
            self._messages += more
            self._messages_gauge.set(self._messages)
        else:
            self._images += more
            self._images_gauge.set(self._images)
        if more < 0 and self._waiting:
            self._hand_out()

    def _take(self, reservation: Reservation, size: int) -> bool:
        """Set the size of a reservation, unless it does not fit now."""
        fits = size <= self.largest and self._fits(reservation.use, size - reservation.size)
        if fits:
            self._change(reservation, size)
        return fits

    async def _wait(self, reservation: Reservation, size: int, patience: float | None) -> None:
        if size > self.largest or self.waiting >= MAX_WAITING:
            raise self._refusal(f"{self.waiting} calls wait for some")
        waiter = _Waiter(reservation, size)
        queue = self._waiting.setdefault(reservation.caller, [])
        # Those that hold some go first: it is of no use before they have all.
        holding = sum(bool(other.reservation.size) for other in queue)
        queue.insert(holding if reservation.size else len(queue), waiter)
        self._reclaim_soon()
        reservation.waiting = True
        try:
            with metrics.MEMORY_WAITING.labels(reservation.use).track_inprogress():
                async with asyncio.timeout(patience):
                    await waiter.ready
        except BaseException as error:
            if waiter in self._waiting.get(reservation.caller, ()):
                self._forget(waiter)
            else:
                self._change(reservation, 0)  # the bytes came as their caller gave up
            if isinstance(error, TimeoutError):
                raise self._refusal(f"none became free within {patience:g} s") from None
            raise
        finally:
            reservation.waiting = False

    def _hand_out(self) -> None:
        """Give free bytes to those who wait: one reservation to each caller in turn."""
        progress = True
        while progress:
            progress = False
            for name in list(self._waiting):
                queue = self._waiting[name]
                for waiter in queue:
                    reservation = waiter.reservation
                    # One that is done has been cancelled, or refused, a moment ago.
                    if not waiter.ready.done() and self._fits(reservation.use, waiter.lacking):
                        # The caller goes to the end of the turn.
                        del self._waiting[name]
                        queue.remove(waiter)
                        if queue:
                            self._waiting[name] = queue
                        self._change(reservation, waiter.size)
                        waiter.ready.set_result(None)
                        progress = True
                        break

    def _forget(self, waiter: _Waiter) -> None:
        queue = self._waiting[waiter.reservation.caller]
        queue.remove(waiter)
        if not queue:
            del self._waiting[waiter.reservation.caller]

    def _reclaim_soon(self) -> None:
        if self._reclaiming is None:
            loop = asyncio.get_running_loop()
            self._reclaiming = loop.call_later(RECLAIM_SECONDS, self._reclaim)

    def _reclaim(self) -> None:
        """Free enough for one waiting message of each caller.

        Ends slow transfers and, where there are none, refuses messages that wait with a part of
        their memory, the newest first: without that they could all wait for each other.
        """
        self._reclaiming = None
        if not self._waiting:
            return
        self._reclaim_soon()
        queues = [
            [waiter for waiter in queue if waiter.reservation.use is Use.MESSAGES]
            for queue in self._waiting.values()
        ]
        needed = sum(queue[0].lacking for queue in queues if queue)
        needed -= self._end_transfers(needed)
        now = time.monotonic()
        for waiter in (waiter for queue in queues for waiter in reversed(queue[1:])):
            partial = waiter.reservation.size
            if needed > 0 and partial and now - waiter.since >= self._grace:
                needed -= partial
                if not waiter.ready.done():
                    waiter.ready.set_exception(self._refusal("others have waited for longer"))

    def _end_transfers(self, needed: int) -> int:
        """End slow ones until they free `needed` bytes; returns how many they free."""
        now = time.monotonic()
        held: dict[str, int] = {}
        slow: dict[str, deque[Transfer]] = {}
        for transfer in self._transfers:
            held[transfer.caller] = held.get(transfer.caller, 0) + transfer.holder.size
            if now - transfer.since >= self._grace and not transfer.holder.waiting:
                slow.setdefault(transfer.caller, deque()).append(transfer)
        freed = 0
        while freed < needed and slow:
            name = max(slow, key=lambda name: held[name])
            transfer = slow[name].popleft()
            if not slow[name]:
                del slow[name]
            freed += transfer.holder.size
            held[name] -= transfer.holder.size
            transfer.end()
        return freed

    def _refusal(self, why: str) -> Overloaded:
        metrics.MEMORY_REFUSED.inc()
        return Overloaded(f"the memory for requests is in use, and {why}: try again", RETRY_SECONDS)


def memory_for_requests(settings: Settings, at_rest: int) -> int:
    """Bytes of `max_memory` that are left for messages and images. at_rest: what the service takes.

    Raises CannotStart where they are too few for a message of the largest size, and as much for its
    image.
    """
    connections = 2 * settings.max_connections * CONNECTION_BYTES
    spare = int(at_rest * SPARE_SHARE) + connections
    left = settings.memory - at_rest - spare
    least = 2 * most_bytes(settings.max_message_bytes)
    if left < least:
        raise CannotStart(
            f"max_memory is {_mib(settings.memory)}, too little: the service takes "
            f"{_mib(at_rest)} at rest and {_mib(spare)} for connections and growth, which leaves "
            f"{_mib(max(0, left))} for requests; a message of {_mib(settings.max_message_bytes)} "
            f"and its image need {_mib(least)}. Set CHANNELTOK_MAX_MEMORY to "
            f"{_mib(settings.memory - left + least)} or more, or lower "
            "CHANNELTOK_MAX_MESSAGE_BYTES or CHANNELTOK_MAX_CONNECTIONS"
        )
    return left


def most_bytes(message_bytes: int) -> int:
    """Memory of a call whose message has so many bytes."""
    return CALL_BYTES + COPIES * message_bytes


def _mib(size: int) -> str:
    return f"{math.ceil(size / 2**20):,} MiB"
