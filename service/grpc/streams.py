"""Many items over one gRPC call: concurrent work on a bounded window, replies as they are ready."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from service.core.admission import Admission

_Item = TypeVar("_Item")
_Reply = TypeVar("_Reply")


async def reply_to_each(
    requests: AsyncIterator[_Item],
    handle: Callable[[_Item], Awaitable[_Reply]],
    window: int,
    admission: Admission,
) -> AsyncIterator[_Reply]:
    """Yield handle(item) for each request, in the order of completion. `handle` must not raise.

    At most `window` items are in flight. An item leaves the window when its reply has been sent,
    not when it is ready, so a client that stops reading is no longer read from either.

    Once `admission` is closed nothing more is read: items already read are answered, then Stopping
    is raised.
    """
    replies: asyncio.Queue[_Reply | None] = asyncio.Queue()  # None: no more follow
    slots = asyncio.Semaphore(window)
    tasks: set[asyncio.Task[None]] = set()

    async def handle_item(item: _Item) -> None:
        replies.put_nowait(await handle(item))

    async def read_all() -> None:
        async for item in requests:
            await slots.acquire()
            task = asyncio.create_task(handle_item(item))
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
        while (reply := await replies.get()) is not None:
            yield reply
            slots.release()
        await finishing
    finally:
        for task in (finishing, reader, closed, *tasks):
            task.cancel()
