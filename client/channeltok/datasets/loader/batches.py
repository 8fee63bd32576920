"""Batches of an epoch: an iterator that reads ahead, and that can be saved and resumed."""

import weakref
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from channeltok.datasets.loader.daemon_threads import DaemonThreads
from channeltok.datasets.loader.order import EpochOrder, Rows
from channeltok.datasets.loader.row_groups import RowGroups

THREADS = 4  # that read row groups
REMOTE_THREADS = 16


@dataclass(frozen=True)
class Batch:
    """A batch for training.

    Attributes:
        tokens: int64 [n, k], coarse to fine; -1 beyond an image's tokens.
        labels: int64 [n], indices into `TokenDataset.classes`; -1 without a label, or with one that
            is not among them.
        columns: the other columns that were asked for, by name: lists of n values, None where there
            is none.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    columns: dict[str, list[Any]] = field(default_factory=dict)


class Batches(Iterator[Batch]):
    """The batches of one part of an epoch.

    `state_dict` after some of them, and `load_state_dict` on other `Batches` made with the same
    arguments, continue with the next one.
    """

    def __init__(self, groups: RowGroups, order: EpochOrder, columns: Sequence[str]) -> None:
        self._groups, self._order, self._columns = groups, order, columns
        self._step = 0
        self._blocks: dict[int, _Block] = {}
        threads = REMOTE_THREADS if groups.remote else THREADS
        self._pool = DaemonThreads(threads, "read-tokens")
        weakref.finalize(self, self._pool.close)

    def __len__(self) -> int:
        """Number of batches of the whole epoch."""
        return self._order.steps

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """Raises SourceError if a shard is damaged, OSError if reading fails."""
        if self._step >= self._order.steps:
            self._blocks.clear()
            raise StopIteration
        batch = self._read(*self._order.bounds(self._step))
        self._step += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands: plain numbers and texts."""
        order = self._order
        return {
            "step": self._step,
            "rows": int(order.group_rows.sum()),
            "row_groups": zlib.crc32(order.group_rows.tobytes()),  # they decide the order
            "size": order.size,
            "seed": order.seed,
            "part": list(order.part),
            "drop_last": order.drop_last,
            "shuffle_rows": order.shuffle_rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another epoch stood.

        Raises ValueError if the dataset, or an argument, differs from those of the saved epoch.
        """
        for name, value in self.state_dict().items():
            if name != "step" and state.get(name) != value:
                raise ValueError(
                    f"the state was saved with {name} = {state.get(name)}, and this is {name} = "
                    f"{value}: continue with the same dataset and arguments"
                )
        self._step = int(state["step"])
        self._blocks.clear()

    def _read(self, first: int, last: int) -> Batch:
        """Rows of this part, in its order."""
        order = self._order
        number = int(np.searchsorted(order.blocks, first, "right")) - 1
        parts = []
        while first < last:
            begin, end = order.blocks[number : number + 2]
            stop = min(last, int(end))
            parts.append(self._block(number).take(first - begin, stop - begin))
            if first >= (begin + end) // 2 and number + 2 < len(order.blocks):
                self._block(number + 1)  # is read while the rest of this one is used
            first, number = stop, number + 1
        self._blocks = {n: block for n, block in self._blocks.items() if n >= number - 1}
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _block(self, number: int) -> "_Block":
        if number not in self._blocks:
            rows = self._order.block(number)
            self._blocks[number] = _Block(self._groups, rows, self._pool, self._columns)
        return self._blocks[number]


class _Block:
    """The rows of a block, read by threads in the order in which they are needed."""

    def __init__(
        self, groups: RowGroups, rows: Rows, pool: DaemonThreads, columns: Sequence[str]
    ) -> None:
        of, in_group = rows
        numbers, first_use, self._of, counts = np.unique(
            of, return_index=True, return_inverse=True, return_counts=True
        )
        by_group = np.argsort(self._of, kind="stable")
        self._starts = np.cumsum(counts) - counts  # of each group among the rows that are held
        self._places = np.empty(len(of), np.int64)
        self._places[by_group] = np.arange(len(of))
        self._tokens = np.empty((len(of), groups.k), groups.token_type)
        self._labels = np.empty(len(of), np.int64)
        self._columns: dict[str, list[Any]] = {name: [None] * len(numbers) for name in columns}
        self._reads: list[Future[None] | None] = [None] * len(numbers)

        def read(at: int) -> None:
            held = slice(self._starts[at], self._starts[at] + counts[at])
            group = groups.read(int(numbers[at])).take(in_group[by_group[held]])
            self._tokens[held], self._labels[held] = group.tokens, group.labels
            for name in columns:
                self._columns[name][at] = group.columns[name]

        for at in np.argsort(first_use).tolist():
            self._reads[at] = pool.submit(read, at)

    def take(self, first: int, last: int) -> Batch:
        """The rows from `first` to `last`, without the last."""
        of, places = self._of[first:last], self._places[first:last]
        for at in np.unique(of).tolist():
            if (read := self._reads[at]) is not None:
                read.result()
                self._reads[at] = None
        in_group = places - self._starts[of]
        columns = {
            name: [
                values[at][row].as_py()
                for at, row in zip(of.tolist(), in_group.tolist(), strict=True)
            ]
            for name, values in self._columns.items()
        }
        return Batch(self._tokens[places].astype(np.int64), self._labels[places], columns)


def _joined(parts: list[Batch]) -> Batch:
    return Batch(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.labels for part in parts]),
        {
            name: [value for part in parts for value in part.columns[name]]
            for name in parts[0].columns
        },
    )
