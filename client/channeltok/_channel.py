"""What both clients share: channel options, call metadata (bearer token, trace), typed errors."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import grpc

from channeltok._messages import MAX_MESSAGE_BYTES
from channeltok.errors import from_rpc_error
from channeltok.loopback import proxy_options

Metadata: TypeAlias = tuple[tuple[str, str], ...]

DEFAULT_TARGET = "127.0.0.1:50051"

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC's default is 120 s: two minutes of errors after the service is back.
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Spread calls over all addresses of a name; gRPC's default policy keeps to the first.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
]


def options_for(target: str) -> list[tuple[str, int | str]]:
    """Options of a channel to `target`."""
    return [*_OPTIONS, *proxy_options(target)]


@contextmanager
def typed_errors() -> Iterator[None]:
    """Raise gRPC errors as `ChannelTokError`s."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def metadata_of(bearer_token: str | None) -> Callable[[], Metadata]:
    """A function that builds a call's metadata: the bearer token and the current trace context.

    Raises ValueError for a token that a header cannot carry.
    """
    authorization = _authorization(bearer_token)
    return lambda: (*authorization, *_trace_context())


def _authorization(bearer_token: str | None) -> Metadata:
    if bearer_token is None:
        return ()
    token = bearer_token.strip()  # a file's whole content ends in a line end
    # gRPC would refuse it at the first call, with a message that shows the token.
    if not token.isascii() or not token.isprintable() or not token:
        raise ValueError("bearer_token must be printable ASCII and not empty")
    return (("authorization", f"Bearer {token}"),)


def _trace_context() -> Metadata:
    """The caller's active OpenTelemetry span as W3C traceparent; empty without one."""
    # A caller with a span has imported OpenTelemetry; importing it here would slow down all others.
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items())


def checked_timeout(seconds: float) -> float:
    """`seconds` itself. Raises ValueError unless above 0."""
    if not seconds > 0:
        raise ValueError(f"timeout is more than 0 seconds, not {seconds}")
    return seconds


def checked_in_flight(items: int) -> int:
    """`items` itself. Raises ValueError below 1."""
    if items < 1:
        raise ValueError(f"in_flight is at least 1 item, not {items}")
    return items
