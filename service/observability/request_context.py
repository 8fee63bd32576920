"""What surrounds every call, in both protocols alike: its request id, the caller's trace, and its access line (level debug).

Every log line written within the call carries the request id, and the caller gets it back as `x-request-id`.
"""

import asyncio
import random
import re
import time
from collections.abc import Mapping

import grpc
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.call_record import ran_out
from service.observability import tracing

log = structlog.get_logger()
REQUEST_ID = "x-request-id"
_SANE = re.compile(
    r"[A-Za-z0-9._:-]{1,64}"
)  # what a log or a shell never misreads: UUIDs, ULIDs, trace ids and the like
_WATCHED = {"/livez", "/readyz", "/metrics"}  # asked every few seconds: no access line


def _begin(headers: Mapping[str, str]) -> str:
    """For this task, which is the call's own. headers: lower case."""
    given = headers.get(REQUEST_ID, "")
    request_id = (
        given if _SANE.fullmatch(given) else f"{random.getrandbits(128):032x}"
    )  # no secret, and so not the system's, which costs
    structlog.contextvars.bind_contextvars(request_id=request_id)
    tracing.incoming(headers)
    return request_id


class GrpcRequest:
    """Around one gRPC call, in the task that serves it."""

    def __init__(self, context: grpc.aio.ServicerContext, rpc: str) -> None:
        self._context = context
        self._rpc = rpc
        self._started = time.perf_counter()

    def __enter__(self) -> None:
        headers = {
            key: value
            for key, value in self._context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        self._context.set_trailing_metadata(((REQUEST_ID, _begin(headers)),))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        code = self._context.code() or grpc.StatusCode.OK
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            seconds, left = time.perf_counter() - self._started, self._context.time_remaining()
            late = left is not None and ran_out(seconds, seconds + left)
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        _access("grpc", self._rpc, code.name, self._started)


class RequestMiddleware:
    """The ASGI application, surrounded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _begin(Headers(scope=scope))
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            if status != 500:
                raise
            # Starlette raises again what it has answered and we have logged; uvicorn would log it a second time.
        finally:
            if scope["path"] not in _WATCHED:
                _access("rest", f"{scope['method']} {scope['path'][:100]}", status, started)


def _access(protocol: str, call: str, code: str | int, started: float) -> None:
    log.debug(
        "access",
        protocol=protocol,
        call=call,
        code=code,
        seconds=round(time.perf_counter() - started, 6),
    )
