"""What surrounds every call, in both protocols alike: its request id, the caller's trace, and its access line (level debug).

Every log line written within the call carries the request id, and the caller gets it back as `x-request-id`.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import tracing

log = structlog.get_logger()
REQUEST_ID = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")  # what a log or a shell never misreads: UUIDs, ULIDs, trace ids and the like
_WATCHED = {"/livez", "/readyz", "/metrics"}  # asked every few seconds: no access line


def current_request_id() -> str:
    """The id of the call that this task works for; empty outside of one."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def _begin(headers: Mapping[str, str]) -> str:
    """For this task, which is the call's own. headers: lower case."""
    given = headers.get(REQUEST_ID, "")
    request_id = given if _SANE.fullmatch(given) else uuid.uuid4().hex
    structlog.contextvars.bind_contextvars(request_id=request_id)
    tracing.incoming(headers)
    return request_id


class GrpcCalls(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The interceptor for the methods of one service; health checks and reflection pass by."""

    def __init__(self, service: str) -> None:
        self._prefix = f"/{service}/"

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        headers = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        rpc = details.method.removeprefix(self._prefix)

        @contextmanager
        def call(context: grpc.aio.ServicerContext) -> Iterator[None]:
            context.set_trailing_metadata(((REQUEST_ID, _begin(headers)),))
            started, cancelled = time.perf_counter(), False
            try:
                yield
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                code = grpc.StatusCode.CANCELLED if cancelled else context.code() or grpc.StatusCode.OK
                _access("grpc", rpc, code.name, started)

        async def unary(request: Any, context: grpc.aio.ServicerContext) -> Any:
            with call(context):
                return await handler.unary_unary(request, context)

        async def stream(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            with call(context):
                async for reply in handler.stream_stream(requests, context):
                    yield reply

        coders = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(unary, **coders)
        return grpc.stream_stream_rpc_method_handler(stream, **coders)


class RestCalls:
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
    log.debug("access", protocol=protocol, call=call, code=code, seconds=round(time.perf_counter() - started, 6))
