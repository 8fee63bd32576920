"""Read token shards: batches for training, and rows for decoding."""

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import repeat
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from channeltok.datasets.errors import SourceError
from channeltok.tokens import ImageView, Tokens

NO_LABEL = -1
PADDING = -1
_VIEW = [field.name for field in fields(ImageView)]


@dataclass(frozen=True)
class Batch:
    """A batch for training.

    Attributes:
        tokens: int64 [n, k], coarse to fine; -1 beyond an image's tokens.
        labels: int64 [n], indices into `TokenDataset.classes`; -1 without a label.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]


class TokenDataset:
    """Token shards in Parquet, at any k up to the one they were made with.

    The first k tokens are those of the budget k, so a smaller k needs no new files.

    Args:
        url: Parquet output of `tokenize`, a path or a URL.
        k: tokens per image; None for all.

    Raises:
        SourceError: there are no token shards.
        ValueError: the shards do not have k tokens.
    """

    def __init__(self, url: str, k: int | None = None) -> None:
        self._fs, root = fsspec.url_to_fs(url)
        self.shards = sorted(path for path in self._fs.find(root) if path.endswith(".parquet"))
        if not self.shards:
            raise SourceError(f"{url}: no token shards (*.parquet) there")
        self._root = root
        kind = self._columns(self.shards[0], ["tokens"]).schema.field("tokens").type
        fixed = pa.types.is_fixed_size_list(kind)
        largest = (
            kind.list_size
            if fixed
            else max(pc.max(self._columns(shard, ["k"])["k"]).as_py() or 1 for shard in self.shards)
        )
        if k is not None and not 1 <= k <= largest:
            raise ValueError(f"k is 1 to {largest} for these tokens, not {k}")
        self.k = largest if k is None else k

    @cached_property
    def classes(self) -> list[str]:
        """All labels of the dataset, sorted."""
        labels = {
            label
            for shard in self.shards
            for label in self._columns(shard, ["label"])["label"].unique().to_pylist()
        }
        return sorted(label for label in labels if label is not None)

    def __len__(self) -> int:
        """Number of images."""
        return sum(self._metadata(shard).num_rows for shard in self.shards)

    def batches(
        self, size: int, *, seed: int | None = None, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Iterate over the dataset once in batches of `size` images; the last may be smaller.

        Args:
            size: images per batch, at least 1.
            seed: shuffles the shards, and the rows within each; use another for each epoch. None
                keeps the order.
            part: (i, n) for the i-th of n processes; each gets every n-th row of every shard.

        Raises:
            ValueError: `size` or `part` is out of range.
        """
        index, parts = part
        if not 0 <= index < parts or size < 1:
            raise ValueError(
                f"part is (i, n) with 0 <= i < n and size at least 1, not {part} and {size}"
            )
        rng = None if seed is None else np.random.default_rng(seed)
        order = (
            self.shards
            if rng is None
            else [self.shards[i] for i in rng.permutation(len(self.shards))]
        )
        classes = pa.array(self.classes, pa.string())
        rest = Batch(np.empty((0, self.k), np.int64), np.empty(0, np.int64))
        for shard in order:
            table = self._columns(shard, ["tokens", "label"])
            tokens = _matrix(table["tokens"], self.k)
            names = table["label"].cast(pa.string())
            indices = pc.index_in(names, value_set=classes, skip_nulls=True)
            labels = indices.fill_null(NO_LABEL).to_numpy().astype(np.int64)
            rows = np.arange(len(tokens)) if rng is None else rng.permutation(len(tokens))
            rows = rows[index::parts]
            rest = Batch(
                np.concatenate([rest.tokens, tokens[rows]]),
                np.concatenate([rest.labels, labels[rows]]),
            )
            while len(rest.tokens) >= size:
                yield Batch(rest.tokens[:size], rest.labels[:size])
                rest = Batch(rest.tokens[size:], rest.labels[size:])
        if len(rest.tokens):
            yield rest

    def rows(self) -> Iterator[tuple[str, Tokens]]:
        """Yield the key and the tokens of every image, in order."""
        for shard in self.shards:
            yield from self.rows_of(shard)

    def rows_of(self, shard: str) -> Iterator[tuple[str, Tokens]]:
        """Yield the key and the tokens of every image of one of `shards`, with their view.

        Shards of older releases, which only cropped, hold no view.
        """
        viewed = set(_VIEW) <= set(self._metadata(shard).schema.to_arrow_schema().names)
        table = self._columns(shard, ["key", "tokens", "fingerprint", *(_VIEW if viewed else ())])
        ids = _matrix(table["tokens"], self.k)
        views: Iterable[ImageView | None] = repeat(None, len(ids))
        if viewed:
            views = map(ImageView, *(table[name].to_pylist() for name in _VIEW))
        for key, row, fingerprint, view in zip(
            table["key"].to_pylist(), ids, table["fingerprint"].to_pylist(), views, strict=True
        ):
            yield key, Tokens(row[row != PADDING], fingerprint, view=view)

    def name_of(self, shard: str) -> str:
        """The name of the source shard that one of `shards` was made of."""
        return posixpath.relpath(shard, self._root).removesuffix(".parquet")

    def _columns(self, shard: str, columns: list[str]) -> Any:
        with self._fs.open(shard, "rb") as file:
            return pq.read_table(file, columns=columns)

    def _metadata(self, shard: str) -> Any:
        with self._fs.open(shard, "rb") as file:
            return pq.read_metadata(file)


def _matrix(column: Any, k: int) -> NDArray[np.int64]:
    """The first k ids of each list in a column, padded: [rows, k]. Creates no Python integers."""
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.arange(lengths.sum()) - starts  # of each id in its list
    matrix = np.full((len(lengths), k), PADDING, np.int64)
    matrix[np.arange(k) < lengths[:, None]] = pc.list_flatten(column).to_numpy()[places < k]
    return matrix
