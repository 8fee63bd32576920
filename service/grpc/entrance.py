"""What every gRPC call passes before its method: who request_context, does its message arrive in time, can it be parsed. And what surrounds it:
its request id, its access line, and errors told as service/grpc/errors.py does.

gRPC has no limit on the time of a message that trickles in, and shows our classes' names to who sends one that cannot be parsed.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health

from service.core.rate_limit import caller
from service.errors import BadRequest, TooSlow
from service.grpc.errors import abort
from service.observability import request_context
from service.security.auth import Authenticator

_HEALTH = f"/{health.SERVICE_NAME}/"  # open to all


class GuardedServer:
    """Stands in the server's place where servicers are added. Not an interceptor, which gRPC asks anew for every call, and twice as slow.

    surrounded: the service whose calls have a request id and an access line.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        access: Authenticator,
        receive_seconds: float,
        surrounded: str,
    ) -> None:
        self._server = server
        self._access = access
        self._receive_seconds = receive_seconds
        self._surrounded = f"/{surrounded}/"

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As the server's."""
        self._server.add_generic_rpc_handlers(
            [_GuardedHandler(self, handler) for handler in handlers]
        )

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """As the aio server's, which knows only generic ones and takes no notice."""

    def guard(self, path: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """Every method as one that takes a stream, which on the wire is the same: a single message gRPC would read before it asks us, for
        as long as it takes."""
        open_to_all, surrounded = path.startswith(_HEALTH), path.startswith(self._surrounded)
        rpc = path.rpartition("/")[2]
        method = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )

        async def answer(context: grpc.aio.ServicerContext) -> Any:
            if not open_to_all:
                authorization = [
                    _text(value)
                    for key, value in context.invocation_metadata() or ()
                    if key == "authorization"
                ]
                caller.set(
                    self._access.client(authorization, path)
                    or self._access.by_address(context.peer())
                )
            if handler.request_streaming:
                request = _messages(context, handler)
            else:
                request = await self._message(context, handler)
            result = method(request, context)
            if inspect.isasyncgen(result):
                async with aclosing(
                    result
                ):  # a call that is cancelled must not wait for the garbage collector to stop its work
                    async for reply in result:
                        await context.write(reply)
                return None
            return await result  # None of a method that writes its replies itself

        async def guarded(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> Any:
            with request_context.GrpcRequest(context, rpc) if surrounded else nullcontext():
                try:
                    return await answer(context)
                except grpc.aio.AbortError:
                    raise
                except Exception as error:
                    await abort(context, error)

        kind = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return kind(guarded, response_serializer=handler.response_serializer)

    async def _message(
        self, context: grpc.aio.ServicerContext, handler: grpc.RpcMethodHandler
    ) -> Any:
        try:
            async with asyncio.timeout(self._receive_seconds):
                message = await context.read()
        except TimeoutError:
            raise TooSlow(
                f"the message did not arrive within {self._receive_seconds:g} s"
            ) from None
        if message is grpc.aio.EOF:
            raise BadRequest("the call ended before its message")
        return _parsed(message, handler)


class _GuardedHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, entrance: GuardedServer, handler: grpc.GenericRpcHandler) -> None:
        self._entrance = entrance
        self._handler = handler
        self._guarded: dict[str, grpc.RpcMethodHandler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        guarded = self._guarded.get(details.method)
        if guarded is None and (handler := self._handler.service(details)) is not None:
            guarded = self._guarded[details.method] = self._entrance.guard(details.method, handler)
        return guarded


async def _messages(
    context: grpc.aio.ServicerContext, handler: grpc.RpcMethodHandler
) -> AsyncIterator[Any]:
    while (message := await context.read()) is not grpc.aio.EOF:
        yield _parsed(message, handler)


def _parsed(message: bytes, handler: grpc.RpcMethodHandler) -> Any:
    try:
        return handler.request_deserializer(message)
    except DecodeError:
        raise BadRequest("the message is not of the type that this method takes") from None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
