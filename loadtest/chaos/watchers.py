"""Strangers that watch the health of the service, and whose metadata is not UTF-8."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from loadtest.chaos.attack import Rows
from loadtest.chaos.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    call_headers,
    frame,
)
from loadtest.chaos.strangers import guarded, measured
from loadtest.harness.service_process import Service

WATCHES = 1000  # idle
CALLS = 10_000  # with bad metadata
CONNECTIONS = 20
SECONDS = 6  # that the Watches stay
_WATCH = call_headers(b"/grpc.health.v1.Health/Watch")
_BAD = call_headers(
    b"/channeltok.v1.Tokenizer/ListTokenizers",
    [(b"authorization", b"Bearer \xff\xfe" + bytes(range(128, 228))), (b"x-\xff", b"\xfe" * 100)],
)
_BAD_PATH = call_headers(b"/channeltok.v1.Tokenizer/\xff\xfe")


def watchers(short: bool) -> Rows:
    """Short: fewer of them."""
    watches, calls = (WATCHES // 10, CALLS // 10) if short else (WATCHES, CALLS)
    attacks = {
        f"{watches} Watches": lambda one: asyncio.run(_watch(one, watches)),
        f"{calls:,} calls with bad metadata": lambda one: asyncio.run(_bad_calls(one, calls)),
    }
    with guarded() as service:
        yield from measured(service, "watchers", attacks, 4 if short else 6)


async def _watch(service: Service, count: int) -> None:
    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(count // CONNECTIONS):
            stream = 2 * number + 1
            writer.write(frame(HEADERS, stream, _WATCH, END_HEADERS))
            writer.write(frame(DATA, stream, bytes(5), END_STREAM))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_drain(reader), SECONDS)

    await _on_connections(service, attack)


async def _bad_calls(service: Service, count: int) -> None:
    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        draining = asyncio.create_task(_drain(reader))
        for number in range(count // CONNECTIONS):
            headers = _BAD_PATH if number % 10 == 9 else _BAD
            writer.write(frame(HEADERS, 2 * number + 1, headers, END_HEADERS | END_STREAM))
            await writer.drain()
            await asyncio.sleep(0.05)  # 400 calls a second from all connections: more is a load
        await asyncio.sleep(0.5)
        draining.cancel()

    await _on_connections(service, attack)


async def _on_connections(
    service: Service,
    attack: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    host, _, port = service.grpc.rpartition(":")

    async def connect() -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(PREFACE + frame(SETTINGS, 0, b""))
            await attack(reader, writer)
            writer.close()

    await asyncio.gather(*(connect() for _ in range(CONNECTIONS)))


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass
