"""Strangers that do not read replies, on both protocols, and floods of connections."""

import asyncio
import contextlib
import socket
import struct
import time

from loadtest.chaos.attack import Row, Rows
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
from loadtest.chaos.strangers import SEND_SECONDS, guarded, measured
from loadtest.harness.service_process import Service, eventually

READERS = 500  # half of them on each port
FLOOD = 2000
_NO_WINDOW = struct.pack(">HI", 4, 0)
_CHECKS, _REQUESTS = 4, 20  # of each reader
_ASKED_IN = 10.0  # seconds, so that asking itself is no overload
_CHECK = call_headers(b"/grpc.health.v1.Health/Check")
_GET = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def readers(short: bool) -> Rows:
    """Short: fewer of them."""
    count, flood = (READERS // 10, FLOOD // 10) if short else (READERS, FLOOD)
    with guarded() as service:
        yield from measured(
            service,
            "readers",
            {
                f"{count} callers that do not read": lambda one: asyncio.run(_deaf(one, count)),
                f"{flood} connections a port": lambda one: asyncio.run(_flood(one, flood)),
            },
            4 if short else 8,
        )
        with contextlib.suppress(AssertionError):
            eventually(lambda: bool(service.events("unread_replies")), 2 * SEND_SECONDS)
        closed = sum(line["connections_closed"] for line in service.events("unread_replies"))
        label = "connections closed because replies were not read"
        yield Row("readers_closed", label, closed, count // 4, at_least=True)


async def _deaf(service: Service, count: int) -> None:
    """They read nothing until they are cut off, or for three times the limit."""

    async def ask(number: int) -> None:
        await asyncio.sleep(number * _ASKED_IN / count)
        await (_deaf_rest if number % 2 else _deaf_grpc)(service)

    with contextlib.suppress(TimeoutError):
        callers = asyncio.gather(*map(ask, range(count)))
        await asyncio.wait_for(callers, _ASKED_IN + 3 * SEND_SECONDS)


async def _deaf_rest(service: Service) -> None:
    """Pipelined requests, whose responses are more than the client's window takes."""
    connection = _socket()
    with contextlib.suppress(OSError), connection:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, _address(service.rest))
        await loop.sock_sendall(connection, _REQUESTS * _GET)
        await _until_closed(connection)


async def _deaf_grpc(service: Service) -> None:
    """Health checks whose replies have no room in the window of HTTP/2."""
    connection = _socket()
    with contextlib.suppress(OSError), connection:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, _address(service.grpc))
        calls = b"".join(
            frame(HEADERS, 2 * number + 1, _CHECK, END_HEADERS)
            + frame(DATA, 2 * number + 1, bytes(5), END_STREAM)
            for number in range(_CHECKS)
        )
        await loop.sock_sendall(connection, PREFACE + frame(SETTINGS, 0, _NO_WINDOW) + calls)
        while await loop.sock_recv(connection, 65536):  # HTTP/2 itself is read
            pass


async def _flood(service: Service, count: int) -> None:
    """Connections that stay open for some seconds, and say nothing."""
    opened = []
    loop = asyncio.get_running_loop()
    for number in range(count):
        for address in (service.rest, service.grpc):
            connection = _socket()
            opened.append(connection)
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(loop.sock_connect(connection, _address(address)), 1)
        if number % 100 == 99:
            await asyncio.sleep(0.6)
    await asyncio.sleep(2)
    for connection in opened:
        connection.close()


async def _until_closed(connection: socket.socket) -> None:
    """Ask the kernel, without reading, whether the other side has closed the connection."""
    until = time.monotonic() + 3 * SEND_SECONDS
    while time.monotonic() < until:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state != 1:  # no longer established
            return
        await asyncio.sleep(0.2)


def _socket() -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that Linux allows
    connection.setblocking(False)
    return connection


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return host, int(port)
