"""What both clients share: channel options, retries, call metadata (bearer token, trace), typed
errors.

Why retries are as they are: docs/decisions/0058-retries.md.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from channeltok._messages import MAX_MESSAGE_BYTES
from channeltok.errors import from_rpc_error
from channeltok.loopback import proxy_options

Metadata: TypeAlias = tuple[tuple[str, str], ...]

DEFAULT_TARGET = "127.0.0.1:50051"

MAX_ATTEMPTS = 5  # of a call, the first included; gRPC allows no more
_INITIAL_BACKOFF, _BACKOFF_FACTOR, _MAX_BACKOFF = 0.2, 2.0, 2.0  # seconds, in all 3 s
_JITTER = 0.2
_RETRIED = ("Encode", "Decode", "ListTokenizers", "ListGenerators")
_RETRY_POLICY = {
    "maxAttempts": MAX_ATTEMPTS,
    "initialBackoff": f"{_INITIAL_BACKOFF}s",
    "maxBackoff": f"{_MAX_BACKOFF}s",
    "backoffMultiplier": _BACKOFF_FACTOR,
    # Where the service knows better, it sends grpc-retry-pushback-ms: when, or not at all.
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
# Largest request that gRPC keeps for a retry. It is the service's default limit: larger ones are
# refused by gRPC's core, without a word on retries.
_RETRY_BUFFER_BYTES = 16 * 2**20

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC's defaults are 1 s and 120 s: two minutes of errors after the service is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
]


def options_for(target: str, retries: bool) -> list[tuple[str, int | str]]:
    """Options of a channel to `target`. retries: see `Client`."""
    # Spread calls over all addresses of a name; gRPC's default policy keeps to the first.
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries:
        names = [{"service": "channeltok.v1.Tokenizer", "method": name} for name in _RETRIED]
        config["methodConfig"] = [{"name": names, "retryPolicy": _RETRY_POLICY}]
    return [*_OPTIONS, ("grpc.service_config", json.dumps(config)), *proxy_options(target)]


def backoff(failures: int) -> float:
    """Seconds before the next call of a stream, as gRPC waits before its retries.

    failures: calls so far that brought nothing, at least 1.
    """
    longest = min(_MAX_BACKOFF, _INITIAL_BACKOFF * _BACKOFF_FACTOR ** (failures - 1))
    return longest * random.uniform(1 - _JITTER, 1 + _JITTER)


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
