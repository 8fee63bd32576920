"""Exceptions of the client, one class per cause, and their conversion from gRPC errors.

The same call fails again   InvalidInput, TooLarge, UnknownTokenizer, UnknownGenerator,
                            FingerprintMismatch, Unauthenticated
It may succeed later        Overloaded, DeadlineExceeded, Unavailable
Fault of the service        InternalError
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

Result = TypeVar("Result")


class ChannelTokError(Exception):
    """A call, or one item of a stream, failed.

    Attributes:
        code: stable name of the cause, such as BAD_IMAGE. A newer service may send names that
            this release does not know.
        message: a sentence for people.
        retry_after: seconds after which the service suggests a retry, or None.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message, retry_after)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidInput(ChannelTokError):
    """The request is invalid: BAD_IMAGE, BAD_K, BAD_TOKENS, BAD_SAMPLING, BAD_PROMPT,
    UNKNOWN_CLASS, UNSUPPORTED_FORMAT, TOO_MANY_PIXELS or BAD_REQUEST; or this service is older than
    the client and has no such method: NO_SUCH_PATH."""


class TooLarge(ChannelTokError):
    """The message has too many bytes: TOO_LARGE."""


class UnknownTokenizer(ChannelTokError):
    """No tokenizer of that name is served: UNKNOWN_TOKENIZER."""


class UnknownGenerator(ChannelTokError):
    """No generator of that name is served, or none at all: UNKNOWN_GENERATOR."""


class FingerprintMismatch(ChannelTokError):
    """The tokens were made by a tokenizer that is not served: FINGERPRINT_MISMATCH."""


class Unauthenticated(ChannelTokError):
    """The bearer token is missing or wrong (UNAUTHENTICATED), or the call is not allowed with it
    (FORBIDDEN)."""


class Overloaded(ChannelTokError):
    """The queue is full (OVERLOADED) or this caller exceeds its rate (RATE_LIMITED).

    Retry after `retry_after` seconds.
    """


class DeadlineExceeded(ChannelTokError):
    """No reply within the timeout: DEADLINE_EXCEEDED."""


class Unavailable(ChannelTokError):
    """An engine is restarting (ENGINE_UNAVAILABLE) or the service unreachable (UNAVAILABLE)."""


class InternalError(ChannelTokError):
    """A fault of the service: INTERNAL."""


CLASS_OF_CODE: dict[str, type[ChannelTokError]] = {
    "BAD_IMAGE": InvalidInput,
    "BAD_K": InvalidInput,
    "BAD_TOKENS": InvalidInput,
    "BAD_SAMPLING": InvalidInput,
    "BAD_PROMPT": InvalidInput,
    "UNKNOWN_CLASS": InvalidInput,
    "UNSUPPORTED_FORMAT": InvalidInput,
    "TOO_MANY_PIXELS": InvalidInput,
    "BAD_REQUEST": InvalidInput,
    "NO_SUCH_PATH": InvalidInput,
    "TOO_LARGE": TooLarge,
    "UNKNOWN_TOKENIZER": UnknownTokenizer,
    "UNKNOWN_GENERATOR": UnknownGenerator,
    "FINGERPRINT_MISMATCH": FingerprintMismatch,
    "UNAUTHENTICATED": Unauthenticated,
    "FORBIDDEN": Unauthenticated,
    "OVERLOADED": Overloaded,
    "RATE_LIMITED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "ENGINE_UNAVAILABLE": Unavailable,
    "INTERNAL": InternalError,
}

# For errors without details, from gRPC itself or a proxy. Any other status is INTERNAL.
_BY_STATUS: dict[grpc.StatusCode, tuple[str, type[ChannelTokError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: ("BAD_REQUEST", InvalidInput),
    grpc.StatusCode.NOT_FOUND: ("UNKNOWN_TOKENIZER", UnknownTokenizer),
    grpc.StatusCode.FAILED_PRECONDITION: ("FINGERPRINT_MISMATCH", FingerprintMismatch),
    grpc.StatusCode.UNIMPLEMENTED: ("NO_SUCH_PATH", InvalidInput),
    grpc.StatusCode.UNAUTHENTICATED: ("UNAUTHENTICATED", Unauthenticated),
    grpc.StatusCode.PERMISSION_DENIED: ("FORBIDDEN", Unauthenticated),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("OVERLOADED", Overloaded),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("DEADLINE_EXCEEDED", DeadlineExceeded),
    grpc.StatusCode.UNAVAILABLE: ("UNAVAILABLE", Unavailable),
    # The other side hung up; our own cancellations never get here.
    grpc.StatusCode.CANCELLED: ("UNAVAILABLE", Unavailable),
}
_STATUS_OF_NUMBER: dict[int, grpc.StatusCode] = {
    status.value[0]: status for status in grpc.StatusCode
}


def unless_error(result: Result | ChannelTokError) -> Result:
    """A result of a stream. Raises the error that is in its place."""
    if isinstance(result, ChannelTokError):
        raise result
    return result


def from_rpc_error(error: grpc.RpcError) -> ChannelTokError:
    """The typed exception for a failed call of grpc or grpc.aio."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # a proxy: details that contradict the call, or other bytes
        status = None
    details = status.details if status is not None else ()
    return _typed(error.code(), error.details() or "", details)


def from_status(status: status_pb2.Status) -> ChannelTokError:
    """The typed exception for the error of one stream item."""
    return _typed(
        _STATUS_OF_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status.details
    )


def _typed(status: grpc.StatusCode, message: str, details: Iterable[Any]) -> ChannelTokError:
    reason, retry_after = _read_details(details)
    code, cause = _BY_STATUS.get(status, ("INTERNAL", InternalError))
    # gRPC refuses a long message with the same status as a full queue; only the text differs.
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and (
        "larger than max" in message or "metadata size" in message
    ):
        code, cause = "TOO_LARGE", TooLarge
    if reason:
        code, cause = reason, CLASS_OF_CODE.get(reason, cause)
    return cause(code, message or f"the call failed with {status.name}", retry_after)


def _read_details(details: Iterable[Any]) -> tuple[str, float | None]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    reason, retry_after = "", None
    for detail in details:
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            reason = info.reason
        elif detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return reason, retry_after
