"""Error table of the service: code, gRPC status, HTTP status and title of everything callers see.

Where each error arises on the way of a request:

    image --> authenticate --> read body --> admission --> header and pixels --> Triton --> tokens
              Unauthenticated  TooLarge      RateLimited   UnsupportedFormat     EngineUnavailable
                               TooSlow       Overloaded    TooManyPixels         Overloaded (queue)
                               BadRequest    Stopping      BadImage              InternalError
                               Overloaded (memory)         Overloaded (memory)

    tokens --> read ----> find tokenizer ------> check ids --> admission --> Triton --> image
               BadTokens  UnknownTokenizer       BadTokens
                          FingerprintMismatch

    class or prompt, --> check -----> find generator -----> admission --> Triton --> tokens
    sampling, prefix     BadSampling  UnknownGenerator
                         BadTokens    UnknownClass
                         BadK         BadPrompt
                                      FingerprintMismatch

DeadlineExceeded can arise anywhere, and EngineUnavailable also in the middle of a stream. Codes are
stable, because clients branch on them.
"""

import traceback
from typing import ClassVar

import structlog
from channeltok.errors import InvalidInput
from grpc import StatusCode

log = structlog.get_logger()
MAX_DETAIL = 500  # characters; details quote what callers sent


class ServiceError(Exception):
    """An error that callers see.

    detail: a sentence for them: what was wrong and what is allowed, nothing about our internals.
    Longer ones are cut after MAX_DETAIL characters.
    retry_after: seconds after which the same call may succeed; None where repeating it is useless.
    """

    code: ClassVar[str] = "INTERNAL"
    grpc: ClassVar[StatusCode] = StatusCode.INTERNAL
    http: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    ours: ClassVar[bool] = True

    def __init_subclass__(
        cls, *, code: str, grpc: StatusCode, http: int, title: str, ours: bool | None = None
    ) -> None:
        """ours: whether the service is at fault; by default it is for 5xx."""
        cls.code, cls.grpc, cls.http, cls.title = code, grpc, http, title
        cls.ours = http >= 500 if ours is None else ours

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}..."
        self.retry_after = retry_after


# The table. A plain ServiceError is INTERNAL, 500.
class BadRequest(
    ServiceError,
    code="BAD_REQUEST",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=400,
    title="The request is malformed",
): ...


class Unauthenticated(
    ServiceError,
    code="UNAUTHENTICATED",
    grpc=StatusCode.UNAUTHENTICATED,
    http=401,
    title="The caller is not authenticated",
): ...


class Forbidden(
    ServiceError,
    code="FORBIDDEN",
    grpc=StatusCode.PERMISSION_DENIED,
    http=403,
    title="The request is not allowed",
): ...


class NoSuchPath(
    ServiceError,
    code="NO_SUCH_PATH",
    grpc=StatusCode.UNIMPLEMENTED,
    http=404,
    title="Not Found",
): ...


class MethodNotAllowed(
    ServiceError,
    code="METHOD_NOT_ALLOWED",
    grpc=StatusCode.UNIMPLEMENTED,
    http=405,
    title="Method Not Allowed",
): ...


class TooSlow(
    ServiceError,
    code="TOO_SLOW",
    grpc=StatusCode.DEADLINE_EXCEEDED,
    http=408,
    title="The request arrived too slowly",
): ...


class BadImage(
    ServiceError,
    code="BAD_IMAGE",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=422,
    title="The image cannot be read",
): ...


class BadK(
    ServiceError,
    code="BAD_K",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=422,
    title="k is out of range",
): ...


class BadTokens(
    ServiceError,
    code="BAD_TOKENS",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=422,
    title="The tokens cannot be read",
): ...


class BadSampling(
    ServiceError,
    code="BAD_SAMPLING",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=422,
    title="A sampling parameter is out of range",
): ...


class UnknownClass(
    ServiceError,
    code="UNKNOWN_CLASS",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=422,
    title="The generator has no such class",
): ...


class BadPrompt(
    ServiceError,
    code="BAD_PROMPT",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=422,
    title="The generator cannot read the prompt",
): ...


class UnsupportedFormat(
    ServiceError,
    code="UNSUPPORTED_FORMAT",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=415,
    title="The media type is not supported",
): ...


class UnsupportedEncoding(
    ServiceError,
    code="UNSUPPORTED_ENCODING",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=415,
    title="The content encoding is not supported",
): ...


class NotAcceptable(
    ServiceError,
    code="NOT_ACCEPTABLE",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=406,
    title="No acceptable media type",
): ...


class TooManyPixels(
    ServiceError,
    code="TOO_MANY_PIXELS",
    grpc=StatusCode.INVALID_ARGUMENT,
    http=413,
    title="The image has too many pixels",
): ...


class TooLarge(
    ServiceError,
    code="TOO_LARGE",
    grpc=StatusCode.RESOURCE_EXHAUSTED,
    http=413,
    title="The message is too large",
): ...


class UnknownTokenizer(
    ServiceError,
    code="UNKNOWN_TOKENIZER",
    grpc=StatusCode.NOT_FOUND,
    http=404,
    title="The tokenizer is not served",
): ...


class UnknownGenerator(
    ServiceError,
    code="UNKNOWN_GENERATOR",
    grpc=StatusCode.NOT_FOUND,
    http=404,
    title="The generator is not served",
): ...


class FingerprintMismatch(
    ServiceError,
    code="FINGERPRINT_MISMATCH",
    grpc=StatusCode.FAILED_PRECONDITION,
    http=409,
    title="The tokens belong to another tokenizer",
): ...


class Overloaded(
    ServiceError,
    code="OVERLOADED",
    grpc=StatusCode.RESOURCE_EXHAUSTED,
    http=429,
    title="The service is overloaded",
): ...


class RateLimited(
    ServiceError,
    code="RATE_LIMITED",
    grpc=StatusCode.RESOURCE_EXHAUSTED,
    http=429,
    title="The caller exceeded its rate limit",
): ...


class DeadlineExceeded(
    ServiceError,
    code="DEADLINE_EXCEEDED",
    grpc=StatusCode.DEADLINE_EXCEEDED,
    http=504,
    title="The deadline passed",
): ...


class EngineUnavailable(
    ServiceError,
    code="ENGINE_UNAVAILABLE",
    grpc=StatusCode.UNAVAILABLE,
    http=503,
    title="The engine is down or restarting",
): ...


# Not a fault: an operator stops the service, and another instance may serve the call.
class Stopping(
    ServiceError,
    code="STOPPING",
    grpc=StatusCode.UNAVAILABLE,
    http=503,
    title="The service is stopping",
    ours=False,
): ...


KINDS: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
_BY_CODE = {kind.code: kind for kind in KINDS}


class CannotStart(RuntimeError):
    """The service cannot start; the message says what is missing or in the way."""


class CannotContinue(RuntimeError):
    """The service runs but cannot do its work any longer; the message says why."""


def is_ours(code: str) -> bool:
    """Whether a code means a fault of the service, not of the caller nor an expected refusal."""
    return code in _BY_CODE and _BY_CODE[code].ours


def to_service_error(error: Exception) -> ServiceError:
    """The error that callers may see. An unexpected one is logged and hidden behind INTERNAL.

    It ends the work: the frames that `error` came through are cleared.
    """
    if isinstance(error, ServiceError):
        known = error
    elif isinstance(error, InvalidInput):  # from channeltok's value types
        known = _BY_CODE[error.code](error.message)
    else:
        log.exception("internal_error", exc_info=error)
        request_id = structlog.contextvars.get_contextvars().get("request_id", "")
        known = ServiceError(f"internal error; it was logged under request id {request_id}")
    _forget_frames(error)
    return known


def _forget_frames(error: BaseException | None) -> None:
    """Drop what the frames of a traceback still hold: a large message and its image, say.

    Exceptions and frames refer to each other, so it would stay until garbage is collected.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
