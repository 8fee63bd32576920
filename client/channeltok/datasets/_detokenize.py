"""Token shards back to image files."""

import os
from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Protocol

from channeltok._messages import ImageFormat
from channeltok.datasets.errors import SourceError
from channeltok.datasets.token_dataset import TokenDataset
from channeltok.errors import ChannelTokError
from channeltok.fit import Aspect
from channeltok.tokens import Tokens


class Decoder(Protocol):
    """Decodes tokens: `channeltok.Client`, or an engine in this process."""

    def decode_stream(
        self,
        tokens: Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> Generator[bytes | ChannelTokError, None, None]:
        """Yield the image or the error of each token sequence, in order."""
        ...


def detokenize(
    source: str,
    folder: Path,
    decoder: Decoder,
    *,
    k: int | None = None,
    format: ImageFormat = "jpeg",
    square: bool = False,
) -> int:
    """Decode every row of the token shards at `source` to an image file in `folder`.

    An image that was padded gets its own proportions back.

    Args:
        source: Parquet output of `tokenize`, a path or a URL.
        folder: where KEY.jpg, KEY.png or KEY.webp is written; existing files are overwritten.
        decoder: a client, or an engine in this process.
        k: number of tokens to decode; None for all.
        format: format of the images.
        square: write the square as it was decoded, with the bands of padded images.

    Returns:
        The number of images.

    Raises:
        SourceError: there are no token shards, or a key points outside `folder`.
        ValueError: the shards do not have k tokens.
        ChannelTokError: an image cannot be decoded.
        OSError: a file cannot be read or written.
    """
    dataset = TokenDataset(source, k)
    root = folder.resolve()
    keys: deque[str] = deque()  # of the rows that are sent and not yet decoded

    def rows() -> Generator[Tokens, None, None]:
        for key, tokens in dataset.rows():
            keys.append(key)
            yield tokens

    count = 0
    for image in decoder.decode_stream(rows(), format, aspect=(1, 1) if square else None):
        key = keys.popleft()
        if isinstance(image, ChannelTokError):
            raise image
        path = root / f"{key}.{'jpg' if format == 'jpeg' else format}"
        if root not in Path(os.path.normpath(path)).parents:
            raise SourceError(f"the key {key!r} points outside {folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        count += 1
    return count
