"""gRPC channel options, call metadata (bearer token, trace context) and argument checks of both clients."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import grpc

from channeltok._messages import MAX_MESSAGE_BYTES
from channeltok.errors import from_rpc_error

Metadata: TypeAlias = tuple[tuple[str, str], ...]

DEFAULT_TARGET = "127.0.0.1:50051"

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own is 120 s: a client would sleep two minutes beside a service that is long back.
    ("grpc.max_reconnect_backoff_ms", 2000),
    # All addresses behind a name, call by call: gRPC's own policy stays with the first for ever.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
]


@contextmanager
def typed_errors() -> Iterator[None]:
    """gRPC's errors become ours."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def metadata_of(bearer_token: str | None) -> Callable[[], Metadata]:
    """What each call sends beside its message: the token, and the trace that is active when it is made. Raises ValueError."""
    authorization = _authorization(bearer_token)
    return lambda: (*authorization, *_trace_context())


def _authorization(bearer_token: str | None) -> Metadata:
    if bearer_token is None:
        return ()
    # gRPC would refuse it at the first call, in words that show it.
    if not bearer_token.isascii() or not bearer_token.isprintable() or not bearer_token.strip():
        raise ValueError("bearer_token is printable ASCII and not empty")
    return (("authorization", f"Bearer {bearer_token.strip()}"),)


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
    """Seconds. Raises ValueError unless above 0."""
    if not seconds > 0:
        raise ValueError(f"timeout is more than 0 seconds, not {seconds}")
    return seconds


def checked_in_flight(items: int) -> int:
    """Items. Raises ValueError below 1."""
    if items < 1:
        raise ValueError(f"in_flight is at least 1 item, not {items}")
    return items
