"""Conversion of gRPC errors to the client's exceptions."""

import pickle

import grpc
import pytest
from channeltok import (
    ChannelTokError,
    InternalError,
    Overloaded,
    TooLarge,
    Unavailable,
    errors,
)
from channeltok.errors import from_rpc_error, from_status
from google.rpc import status_pb2

from service.errors import ServiceError
from tests.support.faulty_service import RETRY_AFTER, status_of
from tests.support.typed_errors import CLASS_OF_CODE, CLASS_OF_STATUS


class Failed(grpc.RpcError):
    """A failed call, with what the conversion reads."""

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


def test_client_has_a_class_for_every_code_of_the_service() -> None:
    codes = {kind.code for kind in ServiceError.__subclasses__()}
    of_rest_alone = {"METHOD_NOT_ALLOWED", "NOT_ACCEPTABLE", "TOO_SLOW", "UNSUPPORTED_ENCODING"}
    # STOPPING: its gRPC status is that of Unavailable.
    assert set(errors.CLASS_OF_CODE) == codes - of_rest_alone - {"STOPPING"} | {"INTERNAL"}


@pytest.mark.parametrize(("code", "cause"), CLASS_OF_CODE.items())
def test_from_status_picks_the_class_of_the_code(code: str, cause: type[ChannelTokError]) -> None:
    error = from_status(status_of(code))
    assert type(error) is cause
    assert error.code == code
    assert error.message == f"this is {code}"
    assert str(error) == f"{code}: this is {code}"
    assert error.retry_after == (RETRY_AFTER if code == "OVERLOADED" else None)


@pytest.mark.parametrize(("status", "expected"), CLASS_OF_STATUS.items())
def test_from_rpc_error_without_details_goes_by_the_status(
    status: str, expected: tuple[type[ChannelTokError], str]
) -> None:
    error = from_rpc_error(Failed(grpc.StatusCode[status], None))
    assert (type(error), error.code) == expected
    assert status in error.message
    item = from_status(status_pb2.Status(code=grpc.StatusCode[status].value[0], message="m"))
    assert (type(item), item.code, item.message) == (*expected, "m")


def test_from_rpc_error_distinguishes_a_long_message_from_a_full_queue() -> None:
    error = from_rpc_error(
        Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (9 vs. 8)")
    )
    assert (type(error), error.code) == (TooLarge, "TOO_LARGE")


@pytest.mark.parametrize(
    "details", [b"\xff\xff not a Status", status_of("BAD_K").SerializeToString(), b""]
)
def test_from_rpc_error_ignores_details_that_contradict_the_call(details: bytes) -> None:
    error = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, "down", details))
    assert (type(error), error.code, error.message) == (Unavailable, "UNAVAILABLE", "down")


def test_from_status_makes_an_unknown_status_internal() -> None:
    assert type(from_status(status_pb2.Status(code=99, message="?"))) is InternalError


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(Overloaded("OVERLOADED", "full", 1.5)))
    assert type(error) is Overloaded
    assert (error.code, error.message, error.retry_after) == ("OVERLOADED", "full", 1.5)
