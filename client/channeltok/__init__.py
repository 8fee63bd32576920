"""Client of the ChannelTok tokenizer service: images to short, ordered token sequences and back."""

from importlib.metadata import version

from channeltok._async_client import AsyncClient
from channeltok._client import Client
from channeltok._messages import ImageFormat, TokenizerInfo
from channeltok.errors import (
    ChannelTokError,
    DeadlineExceeded,
    FingerprintMismatch,
    InternalError,
    InvalidInput,
    Overloaded,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnknownGenerator,
    UnknownTokenizer,
)
from channeltok.fit import Aspect, Fit
from channeltok.generation import (
    Generated,
    GenerateParams,
    GenerationEvent,
    GeneratorInfo,
    NewTokens,
    Preview,
    Started,
)
from channeltok.quality import Quality, QualityPoint
from channeltok.tokens import ImageView, TokenBytesError, Tokens

__version__ = version("channeltok")

__all__ = [
    "Aspect",
    "AsyncClient",
    "ChannelTokError",
    "Client",
    "DeadlineExceeded",
    "FingerprintMismatch",
    "Fit",
    "GenerateParams",
    "Generated",
    "GenerationEvent",
    "GeneratorInfo",
    "ImageFormat",
    "ImageView",
    "InternalError",
    "InvalidInput",
    "NewTokens",
    "Overloaded",
    "Preview",
    "Quality",
    "QualityPoint",
    "Started",
    "TokenBytesError",
    "TokenizerInfo",
    "Tokens",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnknownGenerator",
    "UnknownTokenizer",
    "__version__",
]
