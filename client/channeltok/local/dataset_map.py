"""Functions for `datasets.Dataset.map(..., batched=True)`. They can be pickled and hashed.

datasets hashes the pickled function to find what it has computed before, and pickles it for
`num_proc` processes. What is pickled is the tokenizer's source and fingerprint, not its graphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from channeltok.fit import Fit
from channeltok.quality import Quality

Columns = dict[str, Any]


class Coder(Protocol):
    """Encodes and decodes batches: a Tokenizer."""

    def encode(
        self, images: Sequence[Any], k: int | None, *, quality: Quality | None, fit: Fit
    ) -> Any: ...

    def decode(self, tokens: Sequence[Any], k: int | None) -> Any: ...


@dataclass(frozen=True)
class DatasetEncoder:
    """A column of images to one of token ids. See `Tokenizer.encode_dataset`."""

    tokenizer: Coder
    image: str
    tokens: str
    k: int | None
    quality: Quality | None
    fit: Fit

    def __call__(self, batch: Columns) -> Columns:
        """Raises the error of the first bad image."""
        images = [_contents(image) for image in batch[self.image]]
        encoded = self.tokenizer.encode(images, self.k, quality=self.quality, fit=self.fit)
        return {self.tokens: [tokens.ids for tokens in encoded]}


@dataclass(frozen=True)
class DatasetDecoder:
    """A column of token ids to one of images. See `Tokenizer.decode_dataset`."""

    tokenizer: Coder
    tokens: str
    image: str
    k: int | None

    def __call__(self, batch: Columns) -> Columns:
        """Raises the error of the first bad token sequence."""
        rows = [np.asarray(ids) for ids in batch[self.tokens]]
        images = self.tokenizer.decode(rows, self.k)
        return {self.image: [{"bytes": image.to_bytes(), "path": None} for image in images]}


def _contents(image: Any) -> Any:
    """The bytes or the path in a row of `datasets.Image(decode=False)`; any other as it is."""
    if isinstance(image, dict):
        return image["path"] if image.get("bytes") is None else image["bytes"]
    return image
