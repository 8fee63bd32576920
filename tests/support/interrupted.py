"""A port in front of a service that goes away again and again, as if its process were killed and
started: connections are reset, new ones refused, and then all is well for a while."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def interrupted(address: str, every: float, away: float) -> Iterator[tuple[str, list[float]]]:
    """HOST:PORT on loopback that forwards to `address`, HOST:PORT, and a list that gets an entry
    for each interruption.

    every: seconds from one interruption to the next, the first after as many. away: seconds that
    each lasts.
    """
    loop = asyncio.new_event_loop()
    host, _, port = address.rpartition(":")
    open_writers: set[asyncio.StreamWriter] = set()
    interruptions: list[float] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(host, int(port))
        writers = {writer, there[1]}
        open_writers.update(writers)
        await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
        open_writers.difference_update(writers)

    async def interrupt(server: asyncio.Server) -> None:
        own = server.sockets[0].getsockname()
        while True:
            await asyncio.sleep(every - away)
            server.close()
            for writer in open_writers:
                writer.transport.abort()
            interruptions.append(loop.time())
            await asyncio.sleep(away)
            server = await asyncio.start_server(forward, *own)

    server = loop.run_until_complete(asyncio.start_server(forward, "127.0.0.1", 0))
    name = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    loop.create_task(interrupt(server))  # noqa: RUF006 all tasks are cancelled below
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield name, interruptions
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()
