"""Accepts the connections of the REST port, up to a hard limit, and knows which are not read."""

import asyncio
import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Callable

import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

log = structlog.get_logger()
_RETRY_SECONDS = 0.5  # after a failure, such as no free descriptor: without it we would spin
_BYTES_ACKED = 120  # offset of tcpi_bytes_acked in Linux's struct tcp_info


class Listener:
    """Accepts on one socket. uvicorn closes it like a server of asyncio."""

    def __init__(
        self,
        listening: socket.socket,
        make_protocol: Callable[[], H11Protocol],
        has_room: Callable[[], bool],
        on_handshake: Callable[["Handshake"], None],
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        """listening: bound. has_room: whether there may be one more connection.

        on_handshake: called with each new connection, which is not one of `make_protocol` before
        its TLS handshake is done.
        """
        self._listening = listening
        self._make_protocol = make_protocol
        self._has_room = has_room
        self._on_handshake = on_handshake
        self._tls = tls
        self._seconds = handshake_seconds
        self._accepting: asyncio.Task[None] | None = None

    def start(self, backlog: int) -> None:
        """Listen."""
        self._listening.setblocking(False)
        self._listening.listen(backlog)
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept no more connections."""
        if self._accepting is not None:
            self._accepting.cancel()

    async def wait_closed(self) -> None:
        """Return when no more connections are accepted."""
        if self._accepting is not None:
            await asyncio.wait([self._accepting])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                log.error("cannot_accept", why=error.strerror)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not self._has_room():
                accepted.close()
                continue
            self._on_handshake(Handshake(accepted, self._make_protocol(), self._tls, self._seconds))


class Handshake:
    """A connection before its protocol has it."""

    def __init__(
        self,
        accepted: socket.socket,
        protocol: H11Protocol,
        tls: ssl.SSLContext | None,
        seconds: float,
    ) -> None:
        self._accepted = accepted
        self._protocol = protocol
        self._tls = tls
        self._seconds = seconds if tls is not None else None
        self._task = asyncio.create_task(self._run())

    def on_end(self, call: Callable[["Handshake"], None]) -> None:
        """Call a function when the handshake has ended, however it did."""
        self._task.add_done_callback(lambda _: call(self))

    def abort(self) -> None:
        """Close the connection."""
        if self._protocol.transport is None:
            self._task.cancel()
        else:  # made a moment ago: to cancel would close it without telling the protocol
            self._protocol.transport.abort()

    async def _run(self) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol,
                self._accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._seconds,
            )
        except OSError:  # the other side's fault: it speaks no TLS, or is gone
            self._accepted.close()
        except asyncio.CancelledError:
            self._accepted.close()
            raise


def bytes_taken(transport: asyncio.BaseTransport) -> int | None:
    """Bytes that the peer has acknowledged so far; None where it has none left to acknowledge."""
    connection = transport.get_extra_info("socket")
    try:
        unread = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
        if not any(unread):
            return None
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    except (OSError, ValueError):  # it is closed already
        return None
    (taken,) = struct.unpack_from("Q", info, _BYTES_ACKED)
    return int(taken)
