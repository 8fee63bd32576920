"""Many items over one gRPC call: concurrent work on a bounded window, replies as they are ready."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from service.core.admission import Admission
from service.core.memory import Reservation

_Item = TypeVar("_Item")
_Reply = TypeVar("_Reply")
_Read = TypeVar("_Read", covariant=True)
REPLY_BYTES = 64 * 2**10  # of an image of 128 pixels, or of tokens


class Source(Protocol[_Read]):
    """Items in the order they are read, and the memory of each."""

    def __aiter__(self) -> AsyncIterator[_Read]: ...

    def take(self) -> Reservation:
        """The memory of the latest item, released by the caller."""


async def reply_to_each(
    requests: Source[_Item],
    handle: Callable[[_Item], Awaitable[_Reply]],
    window: int,
    admission: Admission,
) -> AsyncIterator[_Reply]:
    """Yield handle(item) for each request, in the order of completion. `handle` must not raise.

    At most `window` items are in flight. An item leaves the window when its reply has been sent,
    not when it is ready, so a client that stops reading is no longer read from either. Its memory
    is released then too.

    Once `admission` is closed nothing more is read: items already read are answered, then Stopping
    is raised.
    """
    # None: no more follow
    replies: asyncio.Queue[tuple[_Reply, Reservation] | None] = asyncio.Queue()
    slots = asyncio.Semaphore(window)
    tasks: set[asyncio.Task[None]] = set()

    async def handle_item(item: _Item, memory: Reservation) -> None:
        reply = await handle(item)
        memory.shrink(REPLY_BYTES)
        replies.put_nowait((reply, memory))

    async def read_all() -> None:
        async for item in requests:
            memory = requests.take()
            await slots.acquire()
            task = asyncio.create_task(handle_item(item, memory))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    reader = asyncio.create_task(read_all())
    closed = asyncio.create_task(admission.closed.wait())

    async def finish() -> None:
        try:
            await asyncio.wait({reader, closed}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = not reader.done()
            reader.cancel()
            await asyncio.gather(*tasks)
            if interrupted:
                admission.refuse_if_closed()
            reader.result()
        finally:
            replies.put_nowait(None)

    finishing = asyncio.create_task(finish())
    try:
        while (ready := await replies.get()) is not None:
            reply, memory = ready
            yield reply
            memory.release()
            slots.release()
        await finishing
    finally:
        for task in (finishing, reader, closed, *tasks):
            task.cancel()
