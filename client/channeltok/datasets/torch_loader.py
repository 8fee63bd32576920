"""Token shards in PyTorch: batches over the ranks and workers of a training run.

Needs the extra `torch`, or any PyTorch, beside `batch`.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from typing_extensions import Self

from channeltok.datasets.loader.batches import Batch, Batches
from channeltok.datasets.loader.order import SHUFFLE_ROWS
from channeltok.datasets.token_dataset import TokenDataset

TorchBatch: TypeAlias = dict[str, Any]
"""`tokens`, int64 [n, k]; `label`, int64 [n]; and the columns of the dataset, lists of n values."""


class TokenStream(IterableDataset[TorchBatch]):
    """An epoch of batches, in equal parts for the ranks and for the workers of each.

    Pass it to a `DataLoader`, or torchdata's `StatefulDataLoader`, with `batch_size=None`: it makes
    the batches itself. All parts of an epoch hold each row exactly once, and have the same number
    of batches. Call `set_epoch` before each epoch.

    Args:
        dataset: the token shards.
        size: images per batch.
        seed: of the shuffle of all epochs.
        shuffle: False for the order of the rows.
        rank, ranks: this process among those that train; None as `torch.distributed` says.
        drop_last: see `TokenDataset.batches`; the parts are all workers of all ranks.
        shuffle_rows: see `TokenDataset.batches`; held by each worker.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        ranks: int | None = None,
        drop_last: bool = False,
        shuffle_rows: int = SHUFFLE_ROWS,
    ) -> None:
        if (rank is None) != (ranks is None):
            raise ValueError("pass both rank and ranks, or neither")
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank, self.ranks = 0, 1
        if rank is not None and ranks is not None:
            self.rank, self.ranks = rank, ranks
        elif distributed:
            self.rank, self.ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.dataset, self.size, self.seed = dataset, size, seed
        self.shuffle, self.drop_last, self.shuffle_rows = shuffle, drop_last, shuffle_rows
        # Epoch, and batches that this rank has had of it; workers that live on see both change.
        self._start = torch.zeros(2, dtype=torch.int64)
        self._start.share_memory_()  # type: ignore[no-untyped-call]
        self.batches(0, (self.rank, self.ranks))  # raises for arguments out of range

    def set_epoch(self, epoch: int, batches: int = 0) -> None:
        """Choose the epoch of the next iteration, and how many of its batches this rank has had."""
        self._start[0], self._start[1] = epoch, batches

    def batches(self, epoch: int, part: tuple[int, int]) -> Batches:
        """The batches of one part of an epoch. Raises ValueError, see `TokenDataset.batches`."""
        seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0])
        return self.dataset.batches(
            self.size,
            seed=seed if self.shuffle else None,
            part=part,
            drop_last=self.drop_last,
            shuffle_rows=self.shuffle_rows,
        )

    def __iter__(self) -> "EpochIterator":
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, done = self._start.tolist()
        # A DataLoader takes a batch of each worker in turn, from the first one. So the first one
        # continues as the one whose turn it was.
        index = (index + done) % workers
        part = self.rank * workers + index, self.ranks * workers
        return EpochIterator(self, epoch, part, (done - index + workers - 1) // workers)


class EpochIterator(Iterator[TorchBatch]):
    """The batches of one worker, with the state that torchdata's `StatefulDataLoader` saves."""

    def __init__(self, stream: TokenStream, epoch: int, part: tuple[int, int], step: int) -> None:
        self._stream, self._epoch, self._part = stream, epoch, part
        self._batches = stream.batches(epoch, part)
        if step:
            self._batches.load_state_dict({**self._batches.state_dict(), "step": step})

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TorchBatch:
        return _to_torch(next(self._batches))

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and where it stands."""
        return {"epoch": self._epoch, **self._batches.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another one stood. Raises ValueError if its arguments differ."""
        self._epoch = state["epoch"]
        self._batches = self._stream.batches(self._epoch, self._part)
        self._batches.load_state_dict(state)


class TokenLoader:
    """A loader of epochs for training, which can be saved and resumed in the middle of one.

        loader = TokenLoader(TokenDataset("tokens/", columns=["caption"]), 256, workers=4)
        for batch in loader:  # the next epoch, each time
            train_step(batch["tokens"], batch["label"], batch["caption"])
            checkpoint["loader"] = loader.state_dict()

    Args:
        dataset, size, seed, shuffle, rank, ranks, drop_last, shuffle_rows: see `TokenStream`.
        workers: processes that read; 0 reads in this one.
        options: more for `DataLoader`, such as pin_memory or persistent_workers.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        ranks: int | None = None,
        workers: int = 0,
        drop_last: bool = False,
        shuffle_rows: int = SHUFFLE_ROWS,
        **options: Any,
    ) -> None:
        self._stream = TokenStream(
            dataset,
            size,
            seed=seed,
            shuffle=shuffle,
            rank=rank,
            ranks=ranks,
            drop_last=drop_last,
            shuffle_rows=shuffle_rows,
        )
        self.epoch = 0
        self._done = self._resume_at = 0
        self._workers = workers
        self._loader: DataLoader[Any] = DataLoader(
            self._stream, batch_size=None, num_workers=workers, **options
        )
        self._steps = max(1, workers) * len(self._stream.batches(0, self._part(0)))

    def _part(self, worker: int) -> tuple[int, int]:
        workers = max(1, self._workers)
        return self._stream.rank * workers + worker, self._stream.ranks * workers

    def __len__(self) -> int:
        """Batches of a whole epoch, the same in every rank."""
        return self._steps

    def __iter__(self) -> Iterator[TorchBatch]:
        """Yield the batches of this epoch: all, or the rest after `load_state_dict`."""
        self._done, self._resume_at = self._resume_at, 0
        self._stream.set_epoch(self.epoch, self._done)
        for batch in self._loader:
            self._done += 1
            yield batch
        self.epoch += 1
        self._done = 0

    def state_dict(self) -> dict[str, Any]:
        """Where training stands: plain numbers, the same in every rank."""
        return {"epoch": self.epoch, "done": self._done, **self._arguments()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration continue where another loader stood.

        Raises ValueError if the dataset, or an argument, differs from those of the saved loader.
        """
        for name, value in self._arguments().items():
            if state.get(name) != value:
                raise ValueError(
                    f"the state was saved with {name} = {state.get(name)}, and this is {name} = "
                    f"{value}: continue with the same dataset and arguments"
                )
        self.epoch, self._resume_at = state["epoch"], state["done"]
        self._done = self._resume_at

    def _arguments(self) -> dict[str, Any]:
        of_part = self._stream.batches(0, self._part(0)).state_dict()
        for name in ("step", "seed", "part"):
            del of_part[name]
        stream = self._stream
        return {
            **of_part,
            "seed": stream.seed,
            "shuffle": stream.shuffle,
            "ranks": stream.ranks,
            "workers": self._workers,
        }


def _to_torch(batch: Batch) -> TorchBatch:
    return {
        "tokens": torch.from_numpy(batch.tokens),
        "label": torch.from_numpy(batch.labels),
        **batch.columns,
    }
