"""Who may call, and who it is that calls; asked before anything of a call's message is read. service/grpc/entrance.py asks for gRPC.

Health (/livez, /readyz, grpc.health.v1) is open to all; everything else, /metrics, /docs and reflection too, needs a bearer token where
tokens are set.
"""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.rate_limit import caller
from service.errors import Unauthenticated
from service.observability import metrics
from service.rest.app import problem
from service.security.bearer_tokens import BearerTokens
from service.settings import Settings

_OPEN_PATHS = ("/livez", "/readyz")
_RPC = {  # of the metrics' label, by the last part of the path
    "encode": "encode",
    "decode": "decode",
    "Encode": "encode",
    "Decode": "decode",
    "EncodeStream": "encode_stream",
    "DecodeStream": "decode_stream",
    "generate": "generate",
    "Generate": "generate",
}
_GRPC_PEER = re.compile(r"ipv[46]:\[?([^\]]+?)\]?:\d+")


class Authenticator:
    """Without tokens everybody is let in."""

    def __init__(self, tokens: BearerTokens | None) -> None:
        self._tokens = tokens

    @classmethod
    def of(cls, settings: Settings) -> "Authenticator":
        """Raises CannotStart when the file of tokens is set and no good."""
        return cls(
            None if settings.bearer_token_file is None else BearerTokens(settings.bearer_token_file)
        )

    def client(self, authorization: Sequence[str], path: str) -> str | None:
        """The name of the token's owner, None where no token is asked for. authorization: the header's values. Raises Unauthenticated."""
        if self._tokens is None:
            return None
        try:
            return self._tokens.client(authorization)
        except Unauthenticated:
            metrics.ERRORS.labels(
                _RPC.get(path.rpartition("/")[2], "other"), Unauthenticated.code
            ).inc()
            raise

    @staticmethod
    @lru_cache(maxsize=1024)  # connections, not calls, have addresses
    def by_address(peer: str) -> str:
        """The name of a caller without a token. peer: an address, or gRPC's form of one, ipv4:127.0.0.1:5000.

        Of IPv6 it is the /64: whoever has one address of it has them all. X-Forwarded-For is not believed: anybody can write one.
        """
        found = _GRPC_PEER.fullmatch(unquote(peer))
        try:
            address = ipaddress.ip_address(found[1] if found else peer)
        except ValueError:
            return "address unknown"
        if isinstance(address, ipaddress.IPv4Address):
            return f"address {address}"
        if address.ipv4_mapped is not None:
            return f"address {address.ipv4_mapped}"
        return f"address {ipaddress.ip_network((int(address), 64), strict=False)}"


class AuthMiddleware:
    """Authentication in front of an ASGI application."""

    def __init__(self, app: ASGIApp, access: Authenticator) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            authorization = [
                value.decode("latin-1")
                for name, value in scope["headers"]
                if name == b"authorization"
            ]
            try:
                client = self._access.client(authorization, scope["path"])
            except Unauthenticated as error:
                await problem(error)(scope, receive, send)
                return
            caller.set(
                client or self._access.by_address(scope["client"][0] if scope["client"] else "")
            )
        await self._app(scope, receive, send)
