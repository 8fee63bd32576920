"""The HTTP/1.1 server of the REST API: uvicorn with limits on connections, headers and time.

A connection may take `receive_seconds` to send a request's headers and, when idle, `idle_seconds`
between two requests. Above `max_connections`, those that have waited for a request for longest are
closed, so idle connections cannot lock others out. Twice as many are never open: then new ones are
closed at once. Of a response, `SEND_BYTES` must be read every `send_seconds`.
"""

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import BadRequest, TooLarge
from service.rest.framing import StrictParser
from service.rest.listener import Handshake, Listener, bytes_taken
from service.rest.problems import problem_response
from service.settings import Settings

# Delay before excess connections are closed, so that requests sent just before are read first.
_SHED_SECONDS = 0.1
SEND_BYTES = 16 * 2**10

log = structlog.get_logger()


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: service/gateway.py decides when it stops."""

    def __init__(
        self, app: ASGIApp, settings: Settings, tls: ssl.SSLContext | None, grace: int
    ) -> None:
        """grace: seconds that responses in progress get when the server stops."""
        super().__init__(
            uvicorn.Config(
                _with_small_headers(app, settings.max_header_bytes),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,  # any client can forge X-Forwarded-For
                server_header=False,
                timeout_keep_alive=int(settings.idle_seconds) or 1,
                timeout_graceful_shutdown=grace,
                h11_max_incomplete_event_size=settings.max_header_bytes,
            )
        )
        self._settings = settings
        self._tls = tls
        # An ordered set, longest wait first.
        self._waiting: dict[HttpConnection | Handshake, None] = {}
        self._handshakes = 0
        self._shedding: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's startup, with HttpConnection and our own way to accept connections."""
        await self.lifespan.startup()
        listeners = [
            Listener(
                listening,
                self._make_connection,
                self._has_room,
                self._on_handshake,
                self._tls,
                self._settings.receive_seconds,
            )
            for listening in sockets or []
        ]
        for listener in listeners:
            listener.start(self.config.backlog)
        self.servers = listeners  # type: ignore[assignment]
        self._look_for_unread()
        self.started = True

    def _make_connection(self) -> "HttpConnection":
        return HttpConnection(
            self._settings, self._waiting, self._shed_soon, self.config, self.server_state, {}
        )

    @property
    def _open(self) -> int:
        return len(self.server_state.connections) + self._handshakes

    def _has_room(self) -> bool:
        if self._open >= 2 * self._settings.max_connections:
            self._shed()
        return self._open < 2 * self._settings.max_connections

    def _on_handshake(self, handshake: Handshake) -> None:
        self._handshakes += 1
        self._waiting[handshake] = None
        handshake.on_end(self._end_handshake)
        self._shed_soon()

    def _end_handshake(self, handshake: Handshake) -> None:
        self._handshakes -= 1
        self._waiting.pop(handshake, None)

    def _shed_soon(self) -> None:
        """Called for each new connection."""
        if self._open > self._settings.max_connections and self._shedding is None:
            self._shedding = asyncio.get_running_loop().call_later(_SHED_SECONDS, self._shed)

    def _shed(self) -> None:
        if self._shedding is not None:
            self._shedding.cancel()
            self._shedding = None
        excess = max(0, self._open - self._settings.max_connections)
        for waiting in list(itertools.islice(self._waiting, excess)):
            waiting.abort()

    def _look_for_unread(self) -> None:
        """Close the connections whose responses are not read; again and again."""
        loop = asyncio.get_running_loop()
        closed = sum(one.abort_if_unread(loop.time()) for one in self._connections())
        if closed:
            log.warning("unread_replies", protocol="rest", connections_closed=closed)
        loop.call_later(min(5.0, self._settings.send_seconds / 4), self._look_for_unread)

    def _connections(self) -> "list[HttpConnection]":
        return [one for one in self.server_state.connections if isinstance(one, HttpConnection)]


class HttpConnection(H11Protocol):
    """One connection. It is in `waiting` from its start, or from the end of a response, until the
    headers of the next request have arrived."""

    def __init__(
        self,
        settings: Settings,
        waiting: "dict[HttpConnection | Handshake, None]",
        on_connect: Callable[[], None],
        *uvicorn_arguments: Any,
    ) -> None:
        super().__init__(*uvicorn_arguments)
        self.conn = self._parser = StrictParser(h11.SERVER, settings.max_header_bytes)
        self._settings = settings
        self._waiting = waiting
        self._on_connect = on_connect
        self._deadline: asyncio.TimerHandle | None = None
        self._taken, self._taken_at = 0, 0.0

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def abort_if_unread(self, now: float) -> bool:
        """Close the connection if its client does not read. Returns whether it was closed."""
        taken = bytes_taken(self.transport)
        if taken is None or taken - self._taken >= SEND_BYTES:
            self._taken, self._taken_at = taken or 0, now
            return False
        if now - self._taken_at < self._settings.send_seconds:
            return False
        self.transport.abort()
        return True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        self._on_connect()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and not self._is_responding():  # a request begins
            self._wait()
        super().data_received(data)
        if self._is_responding():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_responding():  # the next request was already in the buffer
            return
        self._waiting[self] = None
        # Refused before the body was read: the rest of it is discarded, for a limited time.
        if self.conn.their_state is h11.SEND_BODY:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self._is_responding():  # garbage after a request: no response can be sent for it
            self.transport.abort()
            return
        limit = self._settings.max_header_bytes
        error = problem_response(
            BadRequest(
                self._parser.refusal
                or f"this is not HTTP/1.1, or its headers have more than {limit:,} bytes, the limit"
            )
        )
        response = h11.Response(
            status_code=error.status_code, headers=[*error.raw_headers, (b"connection", b"close")]
        )
        for event in (response, h11.Data(data=bytes(error.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return False  # neither WebSocket nor HTTP/2: the request is answered as it is

    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        """Wait at most `receive_seconds` for all headers of the next request."""
        self._stop_waiting()
        self._waiting[self] = None
        self._deadline = self.loop.call_later(self._settings.receive_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _with_small_headers(app: ASGIApp, limit: int) -> ASGIApp:
    """Enforce the header limit exactly: h11 only checks headers that arrive in several pieces."""

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        size = (
            sum(len(name) + len(value) for name, value in scope["headers"])
            + len(scope["raw_path"])
            + len(scope["query_string"])
        )
        if size > limit:
            await problem_response(
                TooLarge(f"path and headers have {size:,} bytes; at most {limit:,} are allowed")
            )(scope, receive, send)
        else:
            await app(scope, receive, send)

    return check
