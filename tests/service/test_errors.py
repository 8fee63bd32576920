from grpc import StatusCode

from service import errors
from service.errors import ServiceError

# serving.md's table, the contract with callers.
TABLE = {
    "BAD_REQUEST": (StatusCode.INVALID_ARGUMENT, 400),
    "UNAUTHENTICATED": (StatusCode.UNAUTHENTICATED, 401),
    "TOO_SLOW": (StatusCode.DEADLINE_EXCEEDED, 408),
    "BAD_IMAGE": (StatusCode.INVALID_ARGUMENT, 422),
    "BAD_K": (StatusCode.INVALID_ARGUMENT, 422),
    "BAD_TOKENS": (StatusCode.INVALID_ARGUMENT, 422),
    "BAD_SAMPLING": (StatusCode.INVALID_ARGUMENT, 422),
    "UNKNOWN_CLASS": (StatusCode.INVALID_ARGUMENT, 422),
    "UNSUPPORTED_FORMAT": (StatusCode.INVALID_ARGUMENT, 415),
    "NOT_ACCEPTABLE": (StatusCode.INVALID_ARGUMENT, 406),
    "TOO_MANY_PIXELS": (StatusCode.INVALID_ARGUMENT, 413),
    "TOO_LARGE": (StatusCode.RESOURCE_EXHAUSTED, 413),
    "UNKNOWN_TOKENIZER": (StatusCode.NOT_FOUND, 404),
    "UNKNOWN_GENERATOR": (StatusCode.NOT_FOUND, 404),
    "FINGERPRINT_MISMATCH": (StatusCode.FAILED_PRECONDITION, 409),
    "OVERLOADED": (StatusCode.RESOURCE_EXHAUSTED, 429),
    "RATE_LIMITED": (StatusCode.RESOURCE_EXHAUSTED, 429),
    "DEADLINE_EXCEEDED": (StatusCode.DEADLINE_EXCEEDED, 504),
    "ENGINE_UNAVAILABLE": (StatusCode.UNAVAILABLE, 503),
    "STOPPING": (StatusCode.UNAVAILABLE, 503),
}


def test_the_table_is_complete_and_as_promised() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ServiceError) and kind is not ServiceError
    ]
    assert {kind.code: (kind.grpc, kind.http) for kind in kinds} == TABLE


def test_an_unforeseen_error_is_ours() -> None:
    assert (ServiceError.code, ServiceError.grpc, ServiceError.http) == (
        "INTERNAL",
        StatusCode.INTERNAL,
        500,
    )
