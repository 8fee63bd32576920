"""The order of the rows in an epoch, and the part of it that a process reads.

    row groups -> windows of a few rows -> shuffled -> cut into equal parts
    part -> blocks of at most `shuffle_rows` -> rows of a block shuffled -> batches

A block holds `WINDOWS` windows or more, each from anywhere in the dataset, so a batch is as mixed
as one of a shuffle of all rows, even where every shard holds one class. Everything follows from the
seed: the state of an epoch is the number of its batches so far.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

WINDOWS = 2048  # in a block, at least: eight times as many as a batch of 256 has rows
SHUFFLE_ROWS = 262_144

Rows = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Row groups, and rows in them; of the same length."""


@dataclass(frozen=True)
class EpochOrder:
    """The order of an epoch.

    Attributes:
        group_rows: int64: rows of each row group.
        size: rows of a batch.
        seed: of the shuffle; None for the order of the rows.
        part: (i, n): the i-th of n parts, from 0. Their rows differ by one at most.
        drop_last: whether the batches of all parts have `size` rows; what remains is left out. Else
            the last batch or two of each part have fewer, so that all parts have the same number of
            batches.
        shuffle_rows: the most rows that are shuffled together, and held in memory.
    """

    group_rows: NDArray[np.int64]
    size: int
    seed: int | None
    part: tuple[int, int]
    drop_last: bool = False
    shuffle_rows: int = SHUFFLE_ROWS

    def __post_init__(self) -> None:
        index, parts = self.part
        if not 0 <= index < parts or self.size < 1:
            raise ValueError(
                f"part is (i, n) with 0 <= i < n and size at least 1, not {self.part} and "
                f"{self.size}"
            )
        if self.shuffle_rows < 1:
            raise ValueError(f"shuffle_rows is at least 1, not {self.shuffle_rows}")
        if not self.drop_last and self.steps > self._total // parts:
            raise ValueError(
                f"{self._total} rows cannot be shared by {parts} parts with the same number of "
                f"batches of {self.size}: pass drop_last=True, or fewer parts"
            )

    @cached_property
    def _total(self) -> int:
        return int(self.group_rows.sum())

    @cached_property
    def steps(self) -> int:
        """Batches of each part."""
        parts = self.part[1]
        if self.drop_last:
            return self._total // parts // self.size
        return math.ceil(math.ceil(self._total / parts) / self.size)

    @cached_property
    def rows(self) -> int:
        """Rows of this part."""
        first, last = self._range
        return last - first

    def bounds(self, step: int) -> tuple[int, int]:
        """First and last row + 1 of a batch, counted over the rows of this part."""
        full = self.rows - (self.steps - 1) * self.size  # rows of the last batch
        if full > 0 or step < self.steps - 2:
            return step * self.size, min((step + 1) * self.size, self.rows)
        middle = self.rows - self.size // 2  # another part has a row more: two share one batch
        return (step * self.size, middle) if step == self.steps - 2 else (middle, self.rows)

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """First row of each block, counted over the rows of this part, and their number."""
        count = max(1, math.ceil(self.rows / self.shuffle_rows))
        return np.arange(count + 1) * self.rows // count

    def block(self, number: int) -> Rows:
        """The rows of a block, in their order."""
        first, last = self._range[0] + self.blocks[number : number + 2]
        groups, starts, bounds = self._windows
        windows = slice(
            np.searchsorted(bounds, first, "right") - 1, np.searchsorted(bounds, last, "left")
        )
        lengths = np.diff(bounds[windows.start : windows.stop + 1])
        # Row of each window's first row, less its place in the block: added to places below.
        offsets = starts[windows] - (np.cumsum(lengths) - lengths)
        rows = np.arange(lengths.sum()) + np.repeat(offsets, lengths)
        skipped = first - bounds[windows.start]  # they belong to the block before
        kept = slice(skipped, skipped + last - first)
        in_groups, rows = np.repeat(groups[windows], lengths)[kept], rows[kept]
        if self.seed is None:
            return in_groups, rows
        order = np.random.default_rng([self.seed, *self.part, number]).permutation(len(rows))
        return in_groups[order], rows[order]

    @cached_property
    def _range(self) -> tuple[int, int]:
        """First and last row + 1 of this part, counted over all rows."""
        index, parts = self.part
        first = self._total * index // parts
        if self.drop_last:
            return first, first + self.steps * self.size
        return first, self._total * (index + 1) // parts

    @cached_property
    def _windows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Row group and first row of each window, and where it begins, counted over all rows."""
        whole = max(1, int(self.group_rows.max(initial=1)))
        rows = max(1, min(self.shuffle_rows, self._total // self.part[1]) // WINDOWS)
        if self.seed is None:
            rows = whole
        counts = -(-self.group_rows // rows)
        groups = np.repeat(np.arange(len(counts)), counts)
        starts = rows * (np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts))
        lengths = np.minimum(rows, self.group_rows[groups] - starts)
        if self.seed is not None:
            order = np.random.default_rng(self.seed).permutation(len(groups))
            groups, starts, lengths = groups[order], starts[order], lengths[order]
        return groups, starts, np.concatenate([[0], np.cumsum(lengths)])
