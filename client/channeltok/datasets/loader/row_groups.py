"""Row groups of token shards in memory."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from channeltok.datasets.loader.labels import label_columns, label_numbers
from channeltok.datasets.loader.shards import TokenShards

PADDING = -1
CACHE_BYTES = 256 * 2**20  # of row groups, in each process


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a row group.

    Attributes:
        tokens: uint16 [rows, k], or int32 with PADDING where rows have fewer tokens.
        labels: int64 [rows]: numbers of classes.
        columns: other columns by name, Arrow arrays of the same length.
    """

    tokens: NDArray[Any]
    labels: NDArray[np.int64]
    columns: dict[str, pa.Array]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        other: int = sum(column.nbytes for column in self.columns.values())
        return self.tokens.nbytes + self.labels.nbytes + other

    def take(self, rows: NDArray[np.int64]) -> "RowGroup":
        """A copy of some rows."""
        columns = {name: column.take(pa.array(rows)) for name, column in self.columns.items()}
        return RowGroup(self.tokens[rows], self.labels[rows], columns)


class RowGroups:
    """The row groups of token shards, numbered over all shards. Thread-safe, can be pickled.

    Those that were read last are kept, up to CACHE_BYTES.

    Attributes:
        rows: int64: rows of each.
        token_type: of all tokens, see RowGroup.
        remote: see TokenShards.

    Args:
        shards: where they are.
        k: tokens to read of each row.
        classes: name of each class by its number.
        columns: other columns to read; null where a shard has none of that name.
    """

    def __init__(
        self, shards: TokenShards, k: int, classes: Sequence[str], columns: Sequence[str]
    ) -> None:
        self._shards, self.k, self._columns = shards, k, columns
        self.remote = shards.remote
        fixed = all(footer.list_size is not None for footer in shards.footers)
        self.token_type = np.uint16 if fixed else np.int32
        self._classes = pa.array(classes, pa.string())
        places = [
            (shard, group, rows)
            for shard, footer in enumerate(shards.footers)
            for group, rows in enumerate(footer.group_rows)
            if rows
        ]
        self._places = [(shard, group) for shard, group, _ in places]
        self.rows: NDArray[np.int64] = np.array([rows for *_, rows in places], np.int64)
        self._clear()

    def _clear(self) -> None:
        self._cache: OrderedDict[int, RowGroup] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_cache", "_cached_bytes", "_lock")
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clear()

    def read(self, number: int) -> RowGroup:
        """A whole row group.

        Raises:
            SourceError: it is damaged.
            OSError: reading fails.
        """
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        group = self._read(number)
        with self._lock:
            if number not in self._cache:
                self._cache[number] = group
                self._cached_bytes += group.nbytes
            while self._cached_bytes > CACHE_BYTES:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return group

    def _read(self, number: int) -> RowGroup:
        shard, group = self._places[number]
        here = self._shards.footers[shard].columns
        present = [name for name in self._columns if name in here]
        wanted = {"tokens", *label_columns(here), *present}
        table = self._shards.read(self._shards.paths[shard], sorted(wanted), group)
        columns = {
            name: table[name].combine_chunks() if name in present else pa.nulls(len(table))
            for name in self._columns
        }
        labels = label_numbers(table, self._classes)
        return RowGroup(token_matrix(table["tokens"], self.k), labels, columns)


def token_matrix(column: Any, k: int) -> NDArray[Any]:
    """The first k ids of each list in a column, [rows, k]; see RowGroup.

    Creates no Python integers.
    """
    if pa.types.is_fixed_size_list(column.type):
        ids = pc.list_flatten(column).to_numpy().reshape(-1, column.type.list_size)
        return np.ascontiguousarray(ids[:, :k])
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.arange(lengths.sum()) - starts  # of each id in its list
    matrix = np.full((len(lengths), k), PADDING, np.int32)
    matrix[np.arange(k) < lengths[:, None]] = pc.list_flatten(column).to_numpy()[places < k]
    return matrix
