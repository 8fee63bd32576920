"""From gRPC's errors to the client's."""

import pickle

import grpc
import pytest
from channeltok import (
    ChannelTokError,
    InternalError,
    Overloaded,
    TooLarge,
    Unavailable,
)
from channeltok.errors import from_rpc_error, from_status
from google.rpc import status_pb2

from tests.support.faulty_service import RETRY_AFTER, status_of
from tests.support.typed_errors import CLASS_OF_CODE, CLASS_OF_STATUS


class Failed(grpc.RpcError):
    """A failed call, as far as the conversion looks at it."""

    def __init__(
        self, status: grpc.StatusCode, message: str | None, details: bytes | None = None
    ) -> None:
        self._status, self._message, self._details = status, message, details

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str | None:
        return self._message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...] | None:
        return None if self._details is None else (("grpc-status-details-bin", self._details),)


@pytest.mark.parametrize(("code", "cause"), CLASS_OF_CODE.items())
def test_the_code_says_the_cause(code: str, cause: type[ChannelTokError]) -> None:
    error = from_status(status_of(code))
    assert type(error) is cause
    assert error.code == code
    assert error.message == f"this is {code}"
    assert str(error) == f"{code}: this is {code}"
    assert error.retry_after == (RETRY_AFTER if code == "OVERLOADED" else None)


@pytest.mark.parametrize(("status", "expected"), CLASS_OF_STATUS.items())
def test_without_details_the_status_says_it(
    status: str, expected: tuple[type[ChannelTokError], str]
) -> None:
    error = from_rpc_error(Failed(grpc.StatusCode[status], None))
    assert (type(error), error.code) == expected
    assert status in error.message
    item = from_status(status_pb2.Status(code=grpc.StatusCode[status].value[0], message="m"))
    assert (type(item), item.code, item.message) == (*expected, "m")


def test_a_long_message_is_told_from_a_full_queue() -> None:
    error = from_rpc_error(
        Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (9 vs. 8)")
    )
    assert (type(error), error.code) == (TooLarge, "TOO_LARGE")


@pytest.mark.parametrize(
    "details", [b"\xff\xff not a Status", status_of("BAD_K").SerializeToString(), b""]
)
def test_details_that_contradict_the_call_are_left_aside(details: bytes) -> None:
    error = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, "down", details))
    assert (type(error), error.code, error.message) == (Unavailable, "UNAVAILABLE", "down")


def test_an_unknown_status_number_is_internal() -> None:
    assert type(from_status(status_pb2.Status(code=99, message="?"))) is InternalError


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(Overloaded("OVERLOADED", "full", 1.5)))
    assert type(error) is Overloaded
    assert (error.code, error.message, error.retry_after) == ("OVERLOADED", "full", 1.5)
