"""Authentication: who is calling, by bearer token or by network address.

Both protocols authenticate before they read any of a message (service/grpc/entrance.py,
service/rest/middleware.py). Health checks are open to everyone; everything else, including
/metrics, /docs and reflection, needs a bearer token once tokens are configured.
"""

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from urllib.parse import unquote

from service.errors import Unauthenticated
from service.observability import metrics
from service.security.bearer_tokens import BearerTokens
from service.settings import Settings

_RPC_LABELS = {
    "encode",
    "decode",
    "decode_progressive",
    "encode_stream",
    "decode_stream",
    "encode_batch",
    "decode_batch",
    "generate",
}
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|:")  # EncodeStream, encode:batch
_GRPC_PEER = re.compile(r"ipv[46]:\[?([^\]]+?)\]?:\d+")


class Authenticator:
    """Names callers. tokens: None lets everybody in, named by address."""

    def __init__(self, tokens: BearerTokens | None) -> None:
        self._tokens = tokens

    @classmethod
    def of(cls, settings: Settings) -> "Authenticator":
        """Raises CannotStart when the settings name a token file that is not usable."""
        file = settings.bearer_token_file
        return cls(None if file is None else BearerTokens(file))

    def authenticate(self, authorization: Sequence[str], path: str, peer: str) -> str:
        """The caller's name, the same for all calls with one token or from one address.

        authorization: the values of that header. path: of the HTTP or gRPC call.
        peer: see `name_of_address`. Raises Unauthenticated.
        """
        if self._tokens is None:
            return name_of_address(peer)
        try:
            return self._tokens.authenticate(authorization)
        except Unauthenticated:
            _count(path)
            raise

    @asynccontextmanager
    async def while_accepted(self, name: str, path: str) -> AsyncIterator[None]:
        """`async with` around a call that may last: cancels what is in it when the caller's token
        is removed.

        name: from `authenticate`. path: of the HTTP or gRPC call. Raises Unauthenticated then.
        """
        if self._tokens is None:
            yield
            return
        tokens = self._tokens
        limit = asyncio.timeout(None)

        async def end_when_revoked() -> None:
            await tokens.revoked(name)
            limit.reschedule(asyncio.get_running_loop().time())

        try:
            async with limit:
                watch = asyncio.create_task(end_when_revoked())
                try:
                    yield
                finally:
                    watch.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
            _count(path)
            raise Unauthenticated("the bearer token is no longer accepted") from None


def _count(path: str) -> None:
    rpc = _WORDS.sub("_", path.rpartition("/")[2]).lower()
    metrics.ERRORS.labels(rpc if rpc in _RPC_LABELS else "other", Unauthenticated.code).inc()


@lru_cache(maxsize=1024)  # many calls share a connection's address
def name_of_address(peer: str) -> str:
    """Name of a caller without a token. peer: an IP address, or gRPC's form, ipv4:127.0.0.1:5000.

    IPv6 addresses are named by their /64: a client with one address of it has the rest.
    X-Forwarded-For is ignored because any client can forge it.
    """
    match = _GRPC_PEER.fullmatch(unquote(peer))
    try:
        address = ipaddress.ip_address(match[1] if match else peer)
    except ValueError:
        return "address unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return f"address {address}"
    if address.ipv4_mapped is not None:
        return f"address {address.ipv4_mapped}"
    return f"address {ipaddress.ip_network((int(address), 64), strict=False)}"
