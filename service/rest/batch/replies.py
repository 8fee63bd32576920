"""Many items in one call: worked on while the body arrives, answered in order when it has.

The reply starts at the end of the body. So a body that is refused, for too many items say, gets a
status of its own, and clients that read only once they have sent everything, as most do, wait for
nothing.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from service.errors import TooLarge
from service.rest.batch.bodies import Item

Work = Callable[[int, Item], Awaitable[bytes]]


class Batch:
    """The replies to the items of one body, in their order: an iterator, to be closed.

    window: how many items are worked on at once. max_items: how many a body may have. work: makes
    the reply to an item, from its position and the item; must not raise.
    small_replies: Replies are small, and items may be large: the next item is read when there is
    room in the window, which an item leaves when it has been worked on. Otherwise all items are
    read at once, and each leaves the window when its reply has been sent.
    """

    waiting = False  # for memory: see Holder in service/core/memory.py

    def __init__(self, window: int, max_items: int, work: Work, *, small_replies: bool) -> None:
        self._room = asyncio.Semaphore(window)
        self._max_items = max_items
        self._work = work
        self._small_replies = small_replies
        self._replies: deque[tuple[asyncio.Task[bytes], Item]] = deque()
        self._sending: Item | None = None

    @property
    def size(self) -> int:
        """Bytes reserved for its items now."""
        sending = 0 if self._sending is None else self._sending.memory.size
        return sending + sum(item.memory.size for _, item in self._replies)

    async def take(self, items: AsyncGenerator[Item, None]) -> None:
        """Read all items and work on them. Raises TooLarge, and what iterating `items` raises."""
        async with aclosing(items):
            while True:
                if self._small_replies:
                    await self._room.acquire()
                item = await anext(items, None)
                if item is None:
                    return
                number = len(self._replies)
                if number == self._max_items:
                    item.memory.release()
                    raise TooLarge(
                        f"the body has more than {self._max_items:,} items, the limit of a batch: "
                        "send the others in another call"
                    )
                self._replies.append((asyncio.create_task(self._reply(number, item)), item))

    async def _reply(self, number: int, item: Item) -> bytes:
        if not self._small_replies:
            await self._room.acquire()
        try:
            return await self._work(number, item)
        finally:
            if self._small_replies:
                self._room.release()

    def __aiter__(self) -> "Batch":
        return self

    async def __anext__(self) -> bytes:
        self._finish_sending()
        if not self._replies:
            raise StopAsyncIteration
        reply, self._sending = self._replies.popleft()
        return await reply

    def _finish_sending(self) -> None:
        if self._sending is not None:
            self._sending.memory.release()
            self._sending = None
            if not self._small_replies:
                self._room.release()

    async def aclose(self) -> None:
        """Stop the work and release its memory."""
        for reply, _ in self._replies:
            reply.cancel()
        await asyncio.gather(*(reply for reply, _ in self._replies), return_exceptions=True)
        for _, item in self._replies:
            item.memory.release()
        self._replies.clear()
        self._finish_sending()
