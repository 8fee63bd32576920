"""The HTTP/1.1 server under the REST face: uvicorn, with limits on what a connection may cost.

A connection is allowed `receive_seconds` for each request's headers and, when idle, `idle_seconds` between two requests. When there are
more than `max_connections`, those that have been silent for longest are closed: connections that only sit there shut nobody out.
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
from service.rest.problems import problem_response
from service.settings import Settings

_SHED_SECONDS = 0.1  # from one connection too many to the closing: a request that came just before a flood of them is read in that time


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the drain in __main__ decides what stops when."""

    def __init__(
        self, app: ASGIApp, settings: Settings, tls: ssl.SSLContext | None, grace: int
    ) -> None:
        """grace: seconds that replies on their way get when it stops."""
        super().__init__(
            uvicorn.Config(
                _with_small_headers(app, settings.max_header_bytes),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,  # who calls is who connects: X-Forwarded-For can be written by anybody
                server_header=False,
                timeout_keep_alive=int(settings.idle_seconds) or 1,
                timeout_graceful_shutdown=grace,
                h11_max_incomplete_event_size=settings.max_header_bytes,
            )
        )
        self._settings = settings
        self._tls = tls
        self._waiting: dict[HttpConnection, None] = {}  # the longest first
        self._shedding: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's for given sockets, but with our connections and a limit on the time of a TLS handshake (asyncio's is 60 s)."""
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
                sock=one,
                ssl=self._tls,
                ssl_handshake_timeout=handshake,
                backlog=self.config.backlog,
            )
            for one in sockets or []
        ]
        self.started = True

    def _shed_soon(self) -> None:
        """Called when a connection was made."""
        if (
            len(self.server_state.connections) > self._settings.max_connections
            and self._shedding is None
        ):
            self._shedding = asyncio.get_running_loop().call_later(_SHED_SECONDS, self._shed)

    def _shed(self) -> None:
        self._shedding = None
        too_many = max(0, len(self.server_state.connections) - self._settings.max_connections)
        for connection in list(itertools.islice(self._waiting, too_many)):
            connection.transport.abort()


class HttpConnection(H11Protocol):
    """One connection. It is in `waiting` from its beginning, or from a reply's end, until the headers of the next request are there."""

    def __init__(
        self,
        settings: Settings,
        waiting: "dict[HttpConnection, None]",
        made: Callable[[], None],
        *uvicorn_parts: Any,
    ) -> None:
        super().__init__(*uvicorn_parts)
        self._settings = settings
        self._waiting = waiting
        self._made = made
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        self._made()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and not self._answering():  # the first bytes after a silence
            self._wait()
        super().data_received(data)
        if self._answering():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._answering():  # the next request was in the buffer already
            return
        self._waiting[self] = None
        if (
            self.conn.their_state is h11.SEND_BODY
        ):  # refused before its body was read; what still comes is thrown away, for a while
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self._answering():  # rubbish behind a request: its answer cannot be sent any more
            self.transport.abort()
            return
        limit = self._settings.max_header_bytes
        error = problem_response(
            BadRequest(
                f"this is not HTTP/1.1, or its headers have more than {limit:,} bytes, the limit"
            )
        )
        response = h11.Response(
            status_code=error.status_code, headers=[*error.raw_headers, (b"connection", b"close")]
        )
        for event in (response, h11.Data(data=bytes(error.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        """For all of the next headers, `receive_seconds` at most."""
        self._stop_waiting()
        self._waiting[self] = None
        self._deadline = self.loop.call_later(self._settings.receive_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _with_small_headers(app: ASGIApp, limit: int) -> ASGIApp:
    """The limit to the byte: h11 looks at headers that are not complete yet only, and most come in one piece."""

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
