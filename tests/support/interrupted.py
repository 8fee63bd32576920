"""A port in front of a service that goes away again and again, as if its process were killed and
started: connections are reset, new ones refused, and then all is well for a while."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Interrupted:
    """address: HOST:PORT on loopback. count: interruptions so far; none before `begin`."""

    def __init__(self, target: str, every: float, away: float) -> None:
        self.address, self.count = "", 0
        self.listening = threading.Event()
        self._host, _, self._port = target.rpartition(":")
        self._every, self._away = every, away
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        self._loop.call_soon_threadsafe(self._begun.set)

    def end(self) -> None:
        self.begin()
        self._loop.call_soon_threadsafe(self._ended.set)

    async def run(self) -> None:
        self._loop, self._begun, self._ended = (
            asyncio.get_running_loop(),
            asyncio.Event(),
            asyncio.Event(),
        )
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        own = server.sockets[0].getsockname()
        self.address = f"{own[0]}:{own[1]}"
        self.listening.set()
        await self._begun.wait()
        while not await self._ended_within(self._every - self._away):
            self._reset(server)
            self.count += 1
            await asyncio.sleep(self._away)
            server = await asyncio.start_server(self._forward, *own)
        self._reset(server)
        await asyncio.gather(*self._connections)

    async def _ended_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    def _reset(self, server: asyncio.Server) -> None:
        server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        there, back = await asyncio.open_connection(self._host, int(self._port))
        writers = {writer, back}
        self._writers |= writers
        await asyncio.gather(_copy(reader, back), _copy(there, writer))
        self._writers -= writers
        self._connections.discard(task)


@contextmanager
def interrupted(target: str, every: float, away: float) -> Iterator[Interrupted]:
    """Forward to `target`, HOST:PORT.

    every: seconds from one interruption to the next. away: seconds that each lasts.
    """
    front = Interrupted(target, every, away)
    thread = threading.Thread(target=lambda: asyncio.run(front.run()))
    thread.start()
    front.listening.wait()
    try:
        yield front
    finally:
        front.end()
        thread.join()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
