"""The HTTP/1.1 server of the REST API: uvicorn with limits on connections, headers and time.

A connection may take `receive_seconds` to send a request's headers and, when idle, `idle_seconds`
between two requests. Above `max_connections`, those that have waited for a request for longest are
closed, so idle connections cannot lock others out.
"""

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import BadRequest, TooLarge
from service.rest.framing import StrictParser
from service.rest.problems import problem_response
from service.settings import Settings

# Delay before excess connections are closed, so that requests sent just before are read first.
_SHED_SECONDS = 0.1


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
        self._waiting: dict[HttpConnection, None] = {}  # an ordered set, longest wait first
        self._shedding: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's startup, with HttpConnection and a shorter TLS handshake (asyncio: 60 s)."""
        await self.lifespan.startup()
        handshake = self._settings.receive_seconds if self._tls is not None else None
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                lambda: HttpConnection(
                    self._settings,
                    self._waiting,
                    self._shed_soon,
                    self.config,
                    self.server_state,
                    {},
                ),
                sock=listening,
                ssl=self._tls,
                ssl_handshake_timeout=handshake,
                backlog=self.config.backlog,
            )
            for listening in sockets or []
        ]
        self.started = True

    def _shed_soon(self) -> None:
        """Called for each new connection."""
        if (
            len(self.server_state.connections) > self._settings.max_connections
            and self._shedding is None
        ):
            self._shedding = asyncio.get_running_loop().call_later(_SHED_SECONDS, self._shed)

    def _shed(self) -> None:
        self._shedding = None
        excess = max(0, len(self.server_state.connections) - self._settings.max_connections)
        for connection in list(itertools.islice(self._waiting, excess)):
            connection.transport.abort()


class HttpConnection(H11Protocol):
    """One connection. It is in `waiting` from its start, or from the end of a response, until the
    headers of the next request have arrived."""

    def __init__(
        self,
        settings: Settings,
        waiting: "dict[HttpConnection, None]",
        on_connect: Callable[[], None],
        *uvicorn_arguments: Any,
    ) -> None:
        super().__init__(*uvicorn_arguments)
        self.conn = self._parser = StrictParser(h11.SERVER, settings.max_header_bytes)
        self._settings = settings
        self._waiting = waiting
        self._on_connect = on_connect
        self._deadline: asyncio.TimerHandle | None = None

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
