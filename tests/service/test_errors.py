"""The error table, and that the client knows every row of it."""

import pytest
from channeltok import errors as client
from grpc import StatusCode

import imaging
from service import errors
from service.core.image_codec import SERVICE_ERRORS
from service.errors import ServiceError
from service.grpc.errors import to_status

# The contract with callers: gRPC status, HTTP status, the client's exception.
TABLE = {
    "INTERNAL": (StatusCode.INTERNAL, 500, client.InternalError),
    "BAD_REQUEST": (StatusCode.INVALID_ARGUMENT, 400, client.InvalidInput),
    "UNAUTHENTICATED": (StatusCode.UNAUTHENTICATED, 401, client.Unauthenticated),
    "FORBIDDEN": (StatusCode.PERMISSION_DENIED, 403, client.Unauthenticated),
    "NO_SUCH_PATH": (StatusCode.UNIMPLEMENTED, 404, client.InvalidInput),
    "METHOD_NOT_ALLOWED": (StatusCode.UNIMPLEMENTED, 405, client.InvalidInput),
    "TOO_SLOW": (StatusCode.DEADLINE_EXCEEDED, 408, client.DeadlineExceeded),
    "BAD_IMAGE": (StatusCode.INVALID_ARGUMENT, 422, client.InvalidInput),
    "BAD_K": (StatusCode.INVALID_ARGUMENT, 422, client.InvalidInput),
    "BAD_TOKENS": (StatusCode.INVALID_ARGUMENT, 422, client.InvalidInput),
    "BAD_PROMPT": (StatusCode.INVALID_ARGUMENT, 422, client.InvalidInput),
    "BAD_SAMPLING": (StatusCode.INVALID_ARGUMENT, 422, client.InvalidInput),
    "UNKNOWN_CLASS": (StatusCode.INVALID_ARGUMENT, 422, client.InvalidInput),
    "UNSUPPORTED_FORMAT": (StatusCode.INVALID_ARGUMENT, 415, client.InvalidInput),
    "UNSUPPORTED_ENCODING": (StatusCode.INVALID_ARGUMENT, 415, client.InvalidInput),
    "NOT_ACCEPTABLE": (StatusCode.INVALID_ARGUMENT, 406, client.InvalidInput),
    "TOO_MANY_PIXELS": (StatusCode.INVALID_ARGUMENT, 413, client.InvalidInput),
    "TOO_LARGE": (StatusCode.RESOURCE_EXHAUSTED, 413, client.TooLarge),
    "UNKNOWN_TOKENIZER": (StatusCode.NOT_FOUND, 404, client.UnknownTokenizer),
    "UNKNOWN_GENERATOR": (StatusCode.NOT_FOUND, 404, client.UnknownGenerator),
    "FINGERPRINT_MISMATCH": (StatusCode.FAILED_PRECONDITION, 409, client.FingerprintMismatch),
    "OVERLOADED": (StatusCode.RESOURCE_EXHAUSTED, 429, client.Overloaded),
    "RATE_LIMITED": (StatusCode.RESOURCE_EXHAUSTED, 429, client.Overloaded),
    "DEADLINE_EXCEEDED": (StatusCode.DEADLINE_EXCEEDED, 504, client.DeadlineExceeded),
    "ENGINE_UNAVAILABLE": (StatusCode.UNAVAILABLE, 503, client.Unavailable),
    "STOPPING": (StatusCode.UNAVAILABLE, 503, client.Unavailable),
}
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ServiceError)
]


def test_the_table_is_complete_and_as_promised() -> None:
    statuses = {code: (grpc, http) for code, (grpc, http, _) in TABLE.items()}
    assert {kind.code: (kind.grpc, kind.http) for kind in KINDS} == statuses


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_raises_the_exception_of_every_code(kind: type[ServiceError]) -> None:
    error = client.from_status(to_status(kind("what was wrong", 1.5)))
    assert type(error) is TABLE[kind.code][2]
    assert (error.code, error.message, error.retry_after) == (kind.code, "what was wrong", 1.5)


def test_the_client_waits_for_no_code_that_the_service_lacks() -> None:
    assert client.CLASS_OF_CODE.keys() <= TABLE.keys()


def test_every_error_of_an_image_has_a_code() -> None:
    kinds = {imaging.BadImage, *imaging.BadImage.__subclasses__()}
    assert SERVICE_ERRORS.keys() == kinds
    assert {kind.__name__ for kind in kinds} == {kind.__name__ for kind in SERVICE_ERRORS.values()}


def test_only_faults_of_the_service_are_ours() -> None:
    ours = {code for code in TABLE if errors.is_ours(code)}
    assert ours == {"INTERNAL", "DEADLINE_EXCEEDED", "ENGINE_UNAVAILABLE"}
    assert not errors.is_ours("A_CODE_OF_NOBODY")
