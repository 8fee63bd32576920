"""Client of the ChannelTok tokenizer service: images to short, ordered token sequences and back."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

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
from channeltok.images import DecodedImage, ImageLike
from channeltok.quality import Quality, QualityPoint
from channeltok.tokens import ImageView, TokenBytesError, Tokens

if TYPE_CHECKING:
    from channeltok.local.tokenizer import Tokenizer

__version__ = version("channeltok")

__all__ = [
    "Aspect",
    "AsyncClient",
    "ChannelTokError",
    "Client",
    "DeadlineExceeded",
    "DecodedImage",
    "FingerprintMismatch",
    "Fit",
    "GenerateParams",
    "Generated",
    "GenerationEvent",
    "GeneratorInfo",
    "ImageFormat",
    "ImageLike",
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
    "Tokenizer",
    "TokenizerInfo",
    "Tokens",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnknownGenerator",
    "UnknownTokenizer",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Tokenizer, imported when it is used: it needs the extra `local`, the clients do not."""
    if name != "Tokenizer":
        raise AttributeError(f"module 'channeltok' has no attribute {name!r}")
    try:
        from channeltok.local.tokenizer import Tokenizer
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Tokenizer needs more packages: pip install 'channeltok[local]' ({error})"
        ) from error
    return Tokenizer
