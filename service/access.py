"""Who may call, and who it is that calls: asked before anything of a call's message is read, alike for gRPC and REST.

Health (/livez, /readyz, grpc.health.v1) is open to all; everything else, /metrics, /docs and reflection too, needs a bearer token where
tokens are set.
"""

import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health
from starlette.types import ASGIApp, Receive, Scope, Send

from service import metrics
from service.bearer_tokens import BearerTokens
from service.errors import ServiceError, Unauthenticated
from service.grpc_api import SERVICE, Context, abort
from service.rate_limit import caller
from service.rest_api import problem
from service.settings import Settings

_OPEN_PATHS = ("/livez", "/readyz")
_OPEN_METHODS = f"/{health.SERVICE_NAME}/"
_RPC = {  # of the metrics' label
    "/v1/encode": "encode",
    "/v1/decode": "decode",
    f"/{SERVICE}/Encode": "encode",
    f"/{SERVICE}/Decode": "decode",
    f"/{SERVICE}/EncodeStream": "encode_stream",
    f"/{SERVICE}/DecodeStream": "decode_stream",
}
_PEER = re.compile(r"ipv[46]:\[?([^\]]+?)\]?:\d+")


class Access:
    """Without tokens everybody is let in and known by address."""

    def __init__(self, tokens: BearerTokens | None) -> None:
        self._tokens = tokens

    @classmethod
    def of(cls, settings: Settings) -> "Access":
        """Raises CannotStart when the file of tokens is set and no good."""
        return cls(None if settings.bearer_token_file is None else BearerTokens(settings.bearer_token_file))

    def client(self, authorization: Sequence[str], path: str) -> str | None:
        """The name of the token's owner, None where no token is asked for. Raises Unauthenticated."""
        if self._tokens is None:
            return None
        try:
            return self._tokens.client(authorization)
        except Unauthenticated:
            metrics.REJECTED.labels(_RPC.get(path, "other"), Unauthenticated.code).inc()
            raise


class GrpcAccess(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Access for a gRPC server."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        if details.method.startswith(_OPEN_METHODS):
            return await continuation(details)
        authorization = [_text(value) for key, value in details.invocation_metadata or () if key == "authorization"]
        try:
            client = self._access.client(authorization, details.method)
        except Unauthenticated as error:
            return _refuse(error)
        handler = await continuation(details)
        if client is not None:
            caller.set(client)
            return handler
        return None if handler is None else _told_by_address(handler)


class RestAccess:
    """Access for an ASGI application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            authorization = [value.decode("latin-1") for key, value in scope["headers"] if key == b"authorization"]
            try:
                client = self._access.client(authorization, scope["path"])
            except Unauthenticated as error:
                await problem(error)(scope, receive, send)
                return
            caller.set(client or _address(scope["client"][0] if scope["client"] else ""))
        await self._app(scope, receive, send)


def _refuse(error: ServiceError) -> Any:
    """A handler that answers any kind of call with the error. Of the kind that does not wait for a message first."""

    async def refuse(_requests: AsyncIterator[bytes], context: Context) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _told_by_address(handler: Any) -> Any:
    """The handler, with `caller` set from the connection: only a call's context knows its peer."""
    if handler.unary_unary is not None:

        async def unary(request: Any, context: Context) -> Any:
            caller.set(_peer(context))
            return await handler.unary_unary(request, context)

        return handler._replace(unary_unary=unary)
    if handler.stream_stream is not None:

        async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            caller.set(_peer(context))
            async for reply in handler.stream_stream(requests, context):
                yield reply

        return handler._replace(stream_stream=stream)
    return handler


def _peer(context: Context) -> str:
    found = _PEER.fullmatch(unquote(context.peer()))
    return _address(found[1] if found else "")


def _address(text: str) -> str:
    """The address that stands for a client: of IPv6 the /64, for whoever has one address has all of them. Forwarded-For headers are
    not believed: anybody can write one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "address unknown"
    if address.version == 6:
        if address.ipv4_mapped is not None:
            return f"address {address.ipv4_mapped}"
        return f"address {ipaddress.ip_network((int(address), 64), strict=False)}"
    return f"address {address}"


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
