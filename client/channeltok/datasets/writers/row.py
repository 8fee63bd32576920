"""A row of a token shard."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from channeltok.quality import QualityPoint
from channeltok.tokens import ImageView, Tokens


@dataclass(frozen=True)
class Row:
    """Tokens of an image, with their view, and its origin.

    Attributes:
        key: unique in the dataset.
        tokens: with their view, and where a quality chose k with their curve.
        tokenizer: name of the tokenizer.
        source, offset: the source shard and the position in it.
        label: name of its class, if the source has one.
        label_id: number of its class in the source, if that has one.
        columns: the columns that were kept, by name: str, int, float, bool, bytes, lists of them,
            or None.
        view_number: which of the views of its image this is, from 1; None where there is only the
            image itself.
        flipped: whether the tokenizer saw it mirrored, left to right.
    """

    key: str
    tokens: Tokens
    tokenizer: str
    source: str
    offset: int
    label: str | None
    label_id: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    view_number: int | None = None
    flipped: bool = False

    @property
    def view(self) -> ImageView:
        """What the tokenizer saw of the image."""
        assert self.tokens.view is not None
        return self.tokens.view

    @property
    def quality(self) -> QualityPoint:
        """What the tokens reach; only where a quality chose k."""
        return next(point for point in self.tokens.curve if point.k == self.tokens.k)
