"""What every gRPC call passes before its method: who calls, does its message arrive in time, can it be parsed."""

import asyncio
import inspect
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
        client = None
        if not details.method.startswith(_HEALTH):
            authorization = [_text(value) for key, value in details.invocation_metadata or () if key == "authorization"]
            try:
                client = self._access.client(authorization, details.method)
            except Unauthenticated as error:
                return _refuse(error)
        handler = await continuation(details)
        return None if handler is None else self._guarded(handler, client)

    def _guarded(self, handler: Any, client: str | None) -> Any:
        """Every method as one from stream to stream, which on the wire is the same: a single message gRPC would read before it asks us,
        for as long as it takes."""
        method = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def guarded(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            caller.set(client or self._access.by_address(context.peer()))
            requests = _parsed(messages, handler.request_deserializer, context)
            result = method(requests if handler.request_streaming else await self._only(requests, context), context)
            if inspect.isawaitable(result):
                reply = await result
                if not handler.response_streaming:  # else it has written its replies itself
                    yield reply
            else:
                async for reply in result:
                    yield reply

        return grpc.stream_stream_rpc_method_handler(guarded, response_serializer=handler.response_serializer)

    async def _only(self, requests: AsyncIterator[Any], context: Context) -> Any:
        try:
            async with asyncio.timeout(self._receive_seconds):
                return await anext(requests)
        except TimeoutError:
            await abort(context, TooSlow(f"the message did not arrive within {self._receive_seconds:g} s"))
        except StopAsyncIteration:
            await abort(context, BadRequest("the call ended before its message"))


async def _parsed(messages: AsyncIterator[bytes], parse: Callable[[bytes], Any], context: Context) -> AsyncIterator[Any]:
    async for message in messages:
        try:
            request = parse(message)
        except DecodeError:
            await abort(context, BadRequest("the message is not of the type that this method takes"))
        yield request


def _refuse(error: ServiceError) -> Any:
    """A handler that answers any kind of call with the error. Of the kind that does not wait for a message first."""

    async def refuse(_messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[None]:
        await abort(context, error)
        yield

    return grpc.stream_stream_rpc_method_handler(refuse)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
