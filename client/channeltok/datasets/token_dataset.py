"""Tokens of a finished destination, for whoever trains on them or wants the images back."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from channeltok.datasets.errors import SourceError
from channeltok.tokens import Tokens

UNLABELLED = -1
ABSENT = -1


@dataclass(frozen=True)
class Batch:
    """tokens: int64 [n, k], coarse to fine; -1 where an image has fewer.

    labels: int64 [n], places in `TokenDataset.classes`; -1 where there is none.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]


class TokenDataset:
    """The Parquet shards of `channeltok tokenize`, a path or URL, at any budget up to the one they were made with.

    k: tokens an image; None for all there are. The first k are the tokens at the budget k, so nothing is written anew for a smaller one.
    Raises SourceError when no token shards are there, ValueError for a k that they do not have.
    """

    def __init__(self, url: str, k: int | None = None) -> None:
        self._fs, root = fsspec.url_to_fs(url)
        self.shards = sorted(path for path in self._fs.find(root) if path.endswith(".parquet"))
        if not self.shards:
            raise SourceError(f"{url}: no token shards (*.parquet) there")
        self._root = root
        kind = self._columns(self.shards[0], ["tokens"]).schema.field("tokens").type
        fixed = pa.types.is_fixed_size_list(kind)
        most = (
            kind.list_size
            if fixed
            else max(pc.max(self._columns(shard, ["k"])["k"]).as_py() or 1 for shard in self.shards)
        )
        if k is not None and not 1 <= k <= most:
            raise ValueError(f"k is 1 to {most} with these tokens, not {k}")
        self.k = most if k is None else k

    @cached_property
    def classes(self) -> list[str]:
        """All labels, sorted."""
        labels = {
            label
            for shard in self.shards
            for label in self._columns(shard, ["label"])["label"].unique().to_pylist()
        }
        return sorted(label for label in labels if label is not None)

    def __len__(self) -> int:
        """Images."""
        return sum(self._metadata(shard).num_rows for shard in self.shards)

    def batches(
        self, size: int, *, seed: int | None = None, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Once through, `size` images at a time (the last may be fewer).

        seed: mixes the shards, and the rows of each; another one for each epoch. None keeps the order.
        part: (i, n) is the i-th of n equal parts, for n processes; each has about as many rows of every shard.
        """
        index, parts = part
        if not 0 <= index < parts or size < 1:
            raise ValueError(
                f"a part is (i, n) with 0 <= i < n, and a batch has at least 1 image, not {part} and {size}"
            )
        chance = None if seed is None else np.random.default_rng(seed)
        order = (
            self.shards
            if chance is None
            else [self.shards[i] for i in chance.permutation(len(self.shards))]
        )
        places = pa.array(self.classes, pa.string())
        left = Batch(np.empty((0, self.k), np.int64), np.empty(0, np.int64))
        for shard in order:
            table = self._columns(shard, ["tokens", "label"])
            tokens = _matrix(table["tokens"], self.k)
            found = pc.index_in(table["label"].cast(pa.string()), value_set=places, skip_nulls=True)
            labels = found.fill_null(UNLABELLED).to_numpy().astype(np.int64)
            rows = np.arange(len(tokens)) if chance is None else chance.permutation(len(tokens))
            rows = rows[index::parts]
            left = Batch(
                np.concatenate([left.tokens, tokens[rows]]),
                np.concatenate([left.labels, labels[rows]]),
            )
            while len(left.tokens) >= size:
                yield Batch(left.tokens[:size], left.labels[:size])
                left = Batch(left.tokens[size:], left.labels[size:])
        if len(left.tokens):
            yield left

    def rows(self) -> Iterator[tuple[str, Tokens]]:
        """key and tokens of every image, in order."""
        for shard in self.shards:
            yield from self.rows_of(shard)

    def rows_of(self, shard: str) -> Iterator[tuple[str, Tokens]]:
        """The same of one of `shards`."""
        table = self._columns(shard, ["key", "tokens", "fingerprint"])
        ids = _matrix(table["tokens"], self.k)
        for key, one, fingerprint in zip(
            table["key"].to_pylist(), ids, table["fingerprint"].to_pylist(), strict=True
        ):
            yield key, Tokens(one[one != ABSENT], fingerprint)

    def name_of(self, shard: str) -> str:
        """Of one of `shards`: as the source's shard was called."""
        return posixpath.relpath(shard, self._root).removesuffix(".parquet")

    def _columns(self, shard: str, columns: list[str]) -> Any:
        with self._fs.open(shard, "rb") as file:
            return pq.read_table(file, columns=columns)

    def _metadata(self, shard: str) -> Any:
        with self._fs.open(shard, "rb") as file:
            return pq.read_metadata(file)


def _matrix(column: Any, k: int) -> NDArray[np.int64]:
    """The first k of each list of a column, fixed-size or not, to [rows, k], without a Python object for each id."""
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    places = np.arange(lengths.sum()) - np.repeat(
        np.cumsum(lengths) - lengths, lengths
    )  # of each id in its list
    matrix = np.full((len(lengths), k), ABSENT, np.int64)
    matrix[np.arange(k) < lengths[:, None]] = pc.list_flatten(column).to_numpy()[places < k]
    return matrix
