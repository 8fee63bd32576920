"""What all rows of a token shard have in common: it is written into the shard."""

import json
from dataclasses import asdict, dataclass

from channeltok._messages import TokenizerInfo
from channeltok.fit import Fit

FORMAT = 2  # of token shards


@dataclass(frozen=True)
class Description:
    """How the tokens of a shard were made.

    Attributes:
        tokenizer, fingerprint: name and training of the tokenizer.
        vocab_size: number of token ids; they are 0 to vocab_size - 1.
        max_tokens: number of tokens of a whole image; all shards may hold fewer.
        image_size: side of the square that the tokenizer sees and makes, in pixels.
        k: tokens per image; None where `quality` chose.
        quality: the quality that chose k, as text.
        fit: what part of each image the tokenizer saw.
        views: number of random views of each image; 0 for the image itself.
        seed: of the views.
        keep: names of the kept columns, in their order.
    """

    tokenizer: str
    fingerprint: str
    vocab_size: int
    max_tokens: int
    image_size: int
    k: int | None
    quality: str | None = None
    fit: Fit = "crop"
    views: int = 0
    seed: int = 0
    keep: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        info: TokenizerInfo,
        k: int | None,
        quality: str | None = None,
        fit: Fit = "crop",
        views: int = 0,
        seed: int = 0,
        keep: tuple[str, ...] = (),
    ) -> "Description":
        """The description of what the tokenizer `info` makes."""
        return cls(
            info.name,
            info.fingerprint,
            info.vocab_size,
            info.max_tokens,
            info.image_size,
            k,
            quality,
            fit,
            views,
            seed,
            keep,
        )

    def to_json(self) -> str:
        """A JSON object, with the keys of the attributes and `format`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
