"""Which exception the client raises for each code of the service and each bare gRPC status."""

from channeltok import (
    DeadlineExceeded,
    FingerprintMismatch,
    InternalError,
    InvalidInput,
    Overloaded,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnknownTokenizer,
)

CLASS_OF_CODE = {
    "BAD_IMAGE": InvalidInput,
    "BAD_K": InvalidInput,
    "BAD_TOKENS": InvalidInput,
    "UNSUPPORTED_FORMAT": InvalidInput,
    "TOO_MANY_PIXELS": InvalidInput,
    "BAD_REQUEST": InvalidInput,
    "NO_SUCH_PATH": InvalidInput,
    "TOO_LARGE": TooLarge,
    "UNKNOWN_TOKENIZER": UnknownTokenizer,
    "FINGERPRINT_MISMATCH": FingerprintMismatch,
    "OVERLOADED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "ENGINE_UNAVAILABLE": Unavailable,
    "INTERNAL": InternalError,
    "FROM_THE_FUTURE": Overloaded,  # an unknown code: the gRPC status decides
}

CLASS_OF_STATUS = {
    "INVALID_ARGUMENT": (InvalidInput, "BAD_REQUEST"),
    "NOT_FOUND": (UnknownTokenizer, "UNKNOWN_TOKENIZER"),
    "FAILED_PRECONDITION": (FingerprintMismatch, "FINGERPRINT_MISMATCH"),
    "RESOURCE_EXHAUSTED": (Overloaded, "OVERLOADED"),
    "DEADLINE_EXCEEDED": (DeadlineExceeded, "DEADLINE_EXCEEDED"),
    "UNAVAILABLE": (Unavailable, "UNAVAILABLE"),
    "CANCELLED": (Unavailable, "UNAVAILABLE"),
    "INTERNAL": (InternalError, "INTERNAL"),
    "UNKNOWN": (InternalError, "INTERNAL"),
    "UNIMPLEMENTED": (InvalidInput, "NO_SUCH_PATH"),
    "PERMISSION_DENIED": (Unauthenticated, "FORBIDDEN"),
}
