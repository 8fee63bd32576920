"""What every gRPC call passes before its method: who calls, does its message arrive in time, can it be parsed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health

from service.access import Access
from service.errors import BadRequest, ServiceError, TooSlow, Unauthenticated
from service.grpc_api import Context, abort
from service.rate_limit import caller

_HEALTH = f"/{health.SERVICE_NAME}/"  # open to all


class GrpcEntrance(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """gRPC has no limit on the time of a message that trickles in, and shows our classes' names to who sends one that cannot be parsed."""

    def __init__(self, access: Access, receive_seconds: float) -> None:
        self._access = access
        self._receive_seconds = receive_seconds

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        if details.method.startswith(_HEALTH):
            return await continuation(details)
        authorization = [_text(value) for key, value in details.invocation_metadata or () if key == "authorization"]
        try:
            client = self._access.client(authorization, details.method)
        except Unauthenticated as error:
            return _refuse(error)
        handler = await continuation(details)
        if handler is not None and handler.unary_unary is not None:
            return self._with_one_message(handler, client)
        if handler is not None and handler.stream_stream is not None:
            return self._with_a_stream(handler, client)
        return handler

    def _with_one_message(self, handler: Any, client: str | None) -> Any:
        # As a stream, which on the wire is the same: gRPC would read a single message before it asked us, for as long as it takes.
        async def method(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            caller.set(client or self._access.by_address(context.peer()))
            try:
                async with asyncio.timeout(self._receive_seconds):
                    request = handler.request_deserializer(await anext(messages))
            except TimeoutError:
                await abort(context, TooSlow(f"the message did not arrive within {self._receive_seconds:g} s"))
            except (DecodeError, StopAsyncIteration):
                await abort(context, _malformed())
            yield await handler.unary_unary(request, context)

        return _stream_handler(method, handler)

    def _with_a_stream(self, handler: Any, client: str | None) -> Any:
        async def parsed(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            async for message in messages:
                try:
                    request = handler.request_deserializer(message)
                except DecodeError:
                    await abort(context, _malformed())
                yield request

        async def method(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            caller.set(client or self._access.by_address(context.peer()))
            async for reply in handler.stream_stream(parsed(messages, context), context):
                yield reply

        return _stream_handler(method, handler)


def _stream_handler(method: Callable[..., AsyncIterator[Any]], handler: Any) -> Any:
    return grpc.stream_stream_rpc_method_handler(method, response_serializer=handler.response_serializer)


def _refuse(error: ServiceError) -> Any:
    """A handler that answers any kind of call with the error. Of the kind that does not wait for a message first."""

    async def refuse(_messages: AsyncIterator[bytes], context: Context) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _malformed() -> BadRequest:
    return BadRequest("the message is not of the type that this method takes")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
