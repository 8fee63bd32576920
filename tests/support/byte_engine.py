"""An engine for datasets that takes no time: an image's tokens are the digest of its bytes."""

import hashlib
from collections.abc import Callable, Generator, Iterable

from channeltok import (
    Aspect,
    ChannelTokError,
    Fit,
    ImageFormat,
    ImageView,
    InvalidInput,
    Quality,
    TokenizerInfo,
    Tokens,
)

FINGERPRINT = "00112233aabbccdd"
INFO = TokenizerInfo(
    name="bytes",
    family="none",
    fingerprint=FINGERPRINT,
    max_tokens=16,
    bits_per_token=8,
    vocab_size=256,
    image_size=64,
    budgets=(16,),
)


def tokens_of(image: bytes, k: int = 16) -> Tokens:
    """The tokens that the engine makes of an image."""
    ids = list(hashlib.sha256(image).digest()[:k])
    return Tokens(ids, FINGERPRINT, view=ImageView(8, 8, 0, 0, 8, 8))


class ByteEngine:
    """Images that begin with b"bad" have an error. A decoded image is its ids as bytes.

    before_each: called before the answer to each image, with the number of answers so far.
    """

    def __init__(self, before_each: Callable[[int], object] = lambda number: None) -> None:
        self.answers = 0
        self._before_each = before_each

    def tokenizers(self) -> list[TokenizerInfo]:
        return [INFO]

    def encode_stream(
        self,
        images: Iterable[bytes],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        for image in images:
            self._before_each(self.answers)
            self.answers += 1
            if image.startswith(b"bad"):
                yield InvalidInput("BAD_IMAGE", "no image")
            else:
                yield tokens_of(image, k or 16)

    def decode_stream(
        self,
        tokens: Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> Generator[bytes | ChannelTokError, None, None]:
        for item in tokens:
            assert isinstance(item, Tokens)
            yield item.ids.tobytes()
