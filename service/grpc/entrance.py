"""Wrapper of every gRPC method: authentication, memory, parsing, request id, access log and error
statuses.

gRPC itself has no limit on how long a message may take to arrive nor on all messages together, and
reveals our class names to a client whose message cannot be parsed (service/grpc/requests.py).
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

import grpc

from service.core.memory import MemoryBudget
from service.core.rate_limit import caller
from service.core.refusals import Refusals
from service.errors import NoSuchPath, ServiceError
from service.grpc.aio_server import UNKNOWN
from service.grpc.connections import Connections
from service.grpc.errors import abort
from service.grpc.health import CHECK
from service.grpc.requests import MessageLimits, Requests
from service.observability.request_context import (
    REQUEST_ID,
    begin_request,
    deadline_passed,
    log_access,
)
from service.security.auth import Authenticator


class GuardedServer:
    """Add servicers to this instead of to `server`; it wraps their methods.

    An interceptor would do the same, but gRPC runs interceptors anew for every call, at twice the
    cost. All calls but health checks get a request id and a line in the access log.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        authenticator: Authenticator,
        memory: MemoryBudget,
        refusals: Refusals,
        limits: MessageLimits,
        connections: Connections,
    ) -> None:
        self._server = server
        self._authenticator = authenticator
        self._memory = memory
        self._refusals = refusals
        self._limits = limits
        self._connections = connections

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Called by generated code; does nothing: only registered methods are served."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Called by generated code: add the methods of a service, wrapped."""
        wrapped = {name: self.wrap(f"/{service}/{name}", one) for name, one in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)

    def refuse_other_methods(self) -> None:
        """Answer calls of methods that are not registered with an error like those of others."""
        self._server.add_generic_rpc_handlers([_OtherMethods(self)])

    def wrap(self, path: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """A handler that checks the call, then runs the method of `handler`.

        It takes a stream, even for a method with a single request; on the wire both are the same.
        gRPC would read a single message before it calls us, however long that takes.
        """
        is_open = path == CHECK
        is_stream = handler.request_streaming or handler.response_streaming
        method = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )

        def run(context: grpc.aio.ServicerContext) -> Coroutine[Any, Any, Any]:
            if is_open:
                return answer(context)
            name = self.authenticate(path, context)
            caller.set(name)
            return answer_while_accepted(context, name) if is_stream else answer(context)

        async def answer_while_accepted(context: grpc.aio.ServicerContext, name: str) -> Any:
            async with self._authenticator.while_accepted(name, path):
                return await answer(context)

        async def answer(context: grpc.aio.ServicerContext) -> Any:
            parse, memory = handler.request_deserializer, self._memory
            with Requests(context, path, parse, self._limits, memory) as requests:
                request = requests if handler.request_streaming else await requests.single()
                result = method(request, context)
                if not inspect.isasyncgen(result):
                    return await result  # None from a method that writes its replies itself
                # Closing it makes a cancelled call stop its work now, not at garbage collection.
                async with aclosing(result):
                    async for reply in result:
                        async with memory.transfer(None, requests):
                            await context.write(reply)
            return None

        async def guarded(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> Any:
            with nullcontext() if is_open else _RequestScope(context, path):
                try:
                    reply = await run(context)
                except grpc.aio.AbortError:
                    raise
                except Exception as error:
                    await self._refusals.hold(error, context.time_remaining())
                    self._limit_end(context)
                    try:
                        await abort(context, error)
                    except grpc.aio.InternalError:  # a reply that is not read is in its way
                        self._connections.close(context.peer())
                        raise asyncio.CancelledError from None
                self._limit_end(context)
                return reply

        make_handler = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make_handler(guarded, response_serializer=handler.response_serializer)

    def _limit_end(self, context: grpc.aio.ServicerContext) -> None:
        """Close the connection if its client does not take the end of the call in time."""
        timer = asyncio.get_running_loop().call_later(
            self._limits.send_seconds, self._connections.close, context.peer()
        )
        context.add_done_callback(lambda _: timer.cancel())

    def authenticate(self, path: str, context: grpc.aio.ServicerContext) -> str:
        """The caller's name. Raises Unauthenticated."""
        authorization = [
            value if isinstance(value, str) else value.decode("latin-1")
            for key, value in context.invocation_metadata() or ()
            if key == "authorization"
        ]
        return self._authenticator.authenticate(authorization, path, context.peer())


class _OtherMethods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Refuses every method. gRPC's own refusal has neither our code nor a request id."""

    def __init__(self, server: GuardedServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_unary_rpc_method_handler(self._refuse)

    async def _refuse(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        with _RequestScope(context, UNKNOWN):
            try:
                self._server.authenticate(UNKNOWN, context)
                raise NoSuchPath("there is no such method; reflection lists those there are")
            except ServiceError as error:
                await abort(context, error)


class _RequestScope:
    """Binds the request id for the duration of a call and writes its access line."""

    def __init__(self, context: grpc.aio.ServicerContext, path: str) -> None:
        self._context = context
        self._path = path
        self._started = time.perf_counter()

    def __enter__(self) -> None:
        headers = {
            key: value
            for key, value in self._context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        self._context.set_trailing_metadata(((REQUEST_ID, begin_request(headers)),))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        code = self._context.code() or grpc.StatusCode.OK
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            seconds, left = time.perf_counter() - self._started, self._context.time_remaining()
            late = left is not None and deadline_passed(seconds, seconds + left)
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        log_access("grpc", self._path.rpartition("/")[2], code.name, self._started)
