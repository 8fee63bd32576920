"""What can go wrong, one exception per cause, and how gRPC's errors become them.

the caller's fault   InvalidInput  TooLarge  UnknownTokenizer  UnknownGenerator  FingerprintMismatch      the same call will fail again
who asks             Unauthenticated
of the moment        Overloaded  DeadlineExceeded  Unavailable                          the same call may pass later
the service's fault  InternalError
"""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


class ChannelTokError(Exception):
    """A call, or one item of a stream, failed.

    code: stable name of the cause, such as BAD_IMAGE; a newer service may send names that this release does not know.
    message: a sentence for people.
    retry_after: seconds after which the service suggests to try again; None where it suggests nothing.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message, retry_after)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidInput(ChannelTokError):
    """The request cannot be served: BAD_IMAGE, BAD_K, BAD_TOKENS, BAD_SAMPLING, UNKNOWN_CLASS, UNSUPPORTED_FORMAT,
    TOO_MANY_PIXELS or BAD_REQUEST."""


class TooLarge(ChannelTokError):
    """More bytes than a message may have: TOO_LARGE."""


class UnknownTokenizer(ChannelTokError):
    """No tokenizer of that name is served: UNKNOWN_TOKENIZER."""


class UnknownGenerator(ChannelTokError):
    """No generator of that name is served, or none at all: UNKNOWN_GENERATOR."""


class FingerprintMismatch(ChannelTokError):
    """The tokens were made by a tokenizer that is not served: FINGERPRINT_MISMATCH."""


class Unauthenticated(ChannelTokError):
    """The service does not know this caller: no bearer token, or a wrong one: UNAUTHENTICATED."""


class Overloaded(ChannelTokError):
    """The service has no room now, OVERLOADED, or this caller is over its share, RATE_LIMITED; wait for `retry_after` seconds."""


class DeadlineExceeded(ChannelTokError):
    """No answer in time: DEADLINE_EXCEEDED."""


class Unavailable(ChannelTokError):
    """The service's engine is down or restarting, ENGINE_UNAVAILABLE, or the service cannot be reached, UNAVAILABLE."""


class InternalError(ChannelTokError):
    """A fault of the service: INTERNAL."""


_BY_CODE: dict[str, type[ChannelTokError]] = {
    "BAD_IMAGE": InvalidInput,
    "BAD_K": InvalidInput,
    "BAD_TOKENS": InvalidInput,
    "BAD_SAMPLING": InvalidInput,
    "UNKNOWN_CLASS": InvalidInput,
    "UNSUPPORTED_FORMAT": InvalidInput,
    "TOO_MANY_PIXELS": InvalidInput,
    "BAD_REQUEST": InvalidInput,
    "TOO_LARGE": TooLarge,
    "UNKNOWN_TOKENIZER": UnknownTokenizer,
    "UNKNOWN_GENERATOR": UnknownGenerator,
    "FINGERPRINT_MISMATCH": FingerprintMismatch,
    "UNAUTHENTICATED": Unauthenticated,
    "OVERLOADED": Overloaded,
    "RATE_LIMITED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "ENGINE_UNAVAILABLE": Unavailable,
    "INTERNAL": InternalError,
}

# For errors without details: they come from gRPC itself or from a proxy. A status not named here is INTERNAL.
_BY_STATUS: dict[grpc.StatusCode, tuple[str, type[ChannelTokError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: ("BAD_REQUEST", InvalidInput),
    grpc.StatusCode.NOT_FOUND: ("UNKNOWN_TOKENIZER", UnknownTokenizer),
    grpc.StatusCode.FAILED_PRECONDITION: ("FINGERPRINT_MISMATCH", FingerprintMismatch),
    grpc.StatusCode.UNAUTHENTICATED: ("UNAUTHENTICATED", Unauthenticated),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("OVERLOADED", Overloaded),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("DEADLINE_EXCEEDED", DeadlineExceeded),
    grpc.StatusCode.UNAVAILABLE: ("UNAVAILABLE", Unavailable),
    grpc.StatusCode.CANCELLED: (
        "UNAVAILABLE",
        Unavailable,
    ),  # the other side hung up; our own cancellations never get here
}
_STATUS_OF_NUMBER: dict[int, grpc.StatusCode] = {
    status.value[0]: status for status in grpc.StatusCode
}


def from_rpc_error(error: grpc.RpcError) -> ChannelTokError:
    """The typed exception for a failed call of grpc or grpc.aio."""
    try:
        status = rpc_status.from_call(error)
    except (
        ValueError,
        DecodeError,
    ):  # details that contradict the call, or are no details at all: a proxy's work
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
    # gRPC refuses a long message with the status of a full queue; only its text tells them apart.
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and (
        "larger than max" in message or "metadata size" in message
    ):
        code, cause = "TOO_LARGE", TooLarge
    if reason:
        code, cause = reason, _BY_CODE.get(reason, cause)
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
