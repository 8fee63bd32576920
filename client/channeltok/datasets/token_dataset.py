"""Read token shards: rows by number, batches for training, and rows for decoding."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np

from channeltok.datasets.loader.batches import Batch, Batches
from channeltok.datasets.loader.labels import classes_of
from channeltok.datasets.loader.order import SHUFFLE_ROWS, EpochOrder
from channeltok.datasets.loader.row_groups import PADDING, RowGroup, RowGroups, token_matrix
from channeltok.datasets.loader.shards import TokenShards
from channeltok.tokens import ImageView, Tokens

_VIEW = [field.name for field in fields(ImageView)]
_OWN = ("tokens", "label", "labels")


class TokenDataset:
    """Token shards in Parquet, at any k up to the one they were made with.

    The first k tokens are those of the budget k, so a smaller k needs no new files. It is a
    map-style dataset, as PyTorch's `DataLoader` takes it: `dataset[i]` is a row. It can be pickled.

    Args:
        url: Parquet output of `tokenize`, a path or a URL.
        k: tokens per image; None for all.
        classes: names of the classes by their numbers, such as `classes` of the training set, so
            that both number them alike; None for those of these shards. A label that is not among
            them has the number -1.
        columns: other columns that rows and batches have: "key", "caption", any that was kept.

    Raises:
        SourceError: there are no token shards, or one of them is damaged.
        ValueError: the shards do not have k tokens, or a column is in none of them.
    """

    def __init__(
        self,
        url: str,
        k: int | None = None,
        *,
        classes: Sequence[str] | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        self.token_shards = TokenShards(url)
        self.columns = tuple(columns)
        if classes is not None:
            self.classes = [*classes]
        self._check_columns(url)
        largest = (
            max(footer.list_size or footer.largest_k for footer in self.token_shards.footers) or 1
        )
        if k is not None and not 1 <= k <= largest:
            raise ValueError(f"k is 1 to {largest} for these tokens, not {k}")
        self.k = largest if k is None else k

    def _check_columns(self, url: str) -> None:
        there = {name for footer in self.token_shards.footers for name in footer.columns} - {*_OWN}
        for name in self.columns:
            if name not in there:
                raise ValueError(
                    f"{url}: the column {name!r} cannot be read with the tokens: there are "
                    f"{', '.join(sorted(there))}"
                )

    @property
    def shards(self) -> list[str]:
        """Paths of the token shards, sorted."""
        return self.token_shards.paths

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes by their numbers.

        Classes that had numbers in the source keep them; others are numbered by their names'
        order. Reads the labels of all shards.
        """
        return classes_of(self.token_shards)

    @property
    def description(self) -> dict[str, Any]:
        """How the tokens were made: tokenizer, fingerprint, vocab_size, image_size, fit, ...

        Empty where the shards are of an older release.
        """
        return self.token_shards.footers[0].description

    def __len__(self) -> int:
        """Number of rows."""
        return sum(sum(footer.group_rows) for footer in self.token_shards.footers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A row: `tokens`, int64 [k], padded with -1; `label`, its class's number; its `columns`.

        Raises IndexError.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows, as PyTorch's DataLoader asks for them. Raises IndexError."""
        held: dict[int, RowGroup] = {}
        rows = []
        for index in map(operator.index, indices):
            place = index + len(self) if index < 0 else index
            if not 0 <= place < len(self):
                raise IndexError(f"row {index} of a dataset with {len(self)} rows")
            number = int(np.searchsorted(self._ends, place, "right"))
            if number not in held:
                held[number] = self._groups.read(number)
            group = held[number]
            row = place - int(self._ends[number] - self._groups.rows[number])
            rows.append(
                {
                    "tokens": group.tokens[row].astype(np.int64),
                    "label": int(group.labels[row]),
                    **{name: column[row].as_py() for name, column in group.columns.items()},
                }
            )
        return rows

    def batches(
        self,
        size: int,
        *,
        seed: int | None = None,
        part: tuple[int, int] = (0, 1),
        drop_last: bool = False,
        shuffle_rows: int = SHUFFLE_ROWS,
    ) -> Batches:
        """Iterate over the dataset once in batches of `size` images.

        The parts of an epoch hold each row exactly once, and have the same number of batches.

        Args:
            size: images per batch, at least 1.
            seed: shuffles the rows; use another for each epoch. None keeps the order.
            part: (i, n) for the i-th of n processes.
            drop_last: whether all batches have `size` images; the rows that remain, fewer than
                n * size, are left out of this epoch. Else the last batch or two of each part are
                smaller, and nothing is left out.
            shuffle_rows: the most rows that are shuffled together; twice as many are in memory.

        Raises:
            ValueError: an argument is out of range, or there are fewer rows than parts.
        """
        order = EpochOrder(self._groups.rows, size, seed, part, drop_last, shuffle_rows)
        return Batches(self._groups, order, self.columns)

    def rows(self) -> Iterator[tuple[str, Tokens]]:
        """Yield the key and the tokens of every image, in order."""
        for shard in self.shards:
            yield from self.rows_of(shard)

    def rows_of(self, shard: str) -> Iterator[tuple[str, Tokens]]:
        """Yield the key and the tokens of every image of one of `shards`, with their view.

        Shards of older releases, which only cropped, hold no view.
        """
        viewed = set(_VIEW) <= set(self.token_shards.footer(shard).columns)
        columns = ["key", "tokens", "fingerprint", *(_VIEW if viewed else ())]
        table = self.token_shards.read(shard, columns)
        ids = token_matrix(table["tokens"], self.k)
        views: Iterable[ImageView | None] = repeat(None, len(ids))
        if viewed:
            views = map(ImageView, *(table[name].to_pylist() for name in _VIEW))
        for key, row, fingerprint, view in zip(
            table["key"].to_pylist(), ids, table["fingerprint"].to_pylist(), views, strict=True
        ):
            yield key, Tokens(row[row != PADDING], fingerprint, view=view)

    def columns_of(self, shard: str, names: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of one of `shards`, those of `names` that it has, row by row."""
        has = self.token_shards.footer(shard).columns
        table = self.token_shards.read(shard, [name for name in names if name in has])
        return {name: table[name].to_pylist() for name in table.column_names}

    def name_of(self, shard: str) -> str:
        """The name of the source shard that one of `shards` was made of."""
        return self.token_shards.name_of(shard)

    @cached_property
    def _groups(self) -> RowGroups:
        return RowGroups(self.token_shards, self.k, self.classes, self.columns)

    @cached_property
    def _ends(self) -> Any:
        return np.cumsum(self._groups.rows)


__all__ = ["Batch", "Batches", "TokenDataset"]
