"""TokenStream and TokenLoader: PyTorch's loaders over token shards, with real processes."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from channeltok.datasets import TokenDataset
from channeltok.datasets.torch_loader import TokenLoader, TokenStream
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.support import token_shards
from tests.support.s3_server import BUCKET, s3_server

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata calls it
]

ROWS = 1003
WORKERS = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one class each; 1,003 rows."""
    folder = token_shards.dataset(tmp_path_factory.mktemp("shards"), 20, 50)
    rest = [token_shards.row(f"z/{n}", 8, columns={"caption": None}) for n in range(3)]
    token_shards.shard(folder / "z.parquet", rest, keep=("caption",))
    return folder


@pytest.fixture
def dataset(shards: Path) -> TokenDataset:
    return TokenDataset(str(shards), columns=["key", "caption"])


def keys_of(batches: Iterable[Any]) -> list[list[str]]:
    return [batch["key"] for batch in batches]


def flat(batches: Iterable[list[str]]) -> list[str]:
    return [key for batch in batches for key in batch]


class Ranks:
    """Two ranks, each a process with workers of its own."""

    def __init__(self, shards: Path, folder: Path) -> None:
        self._shards, self._folder = shards, folder
        self._runs = 0

    def run(self, stop: int = 0) -> list[int]:
        """Start both and wait for their end; returns their exit codes."""
        self._runs += 1
        rendezvous = self._folder / f"rendezvous-{self._runs}"
        processes = []
        for rank in range(2):
            paths = [self._folder / f"{rank}.{kind}" for kind in ("keys", "state")]
            arguments = [self._shards, rendezvous, rank, 2, WORKERS, *paths, stop]
            module = [sys.executable, "-m", "tests.support.programs.train_rank"]
            processes.append(subprocess.Popen([*module, *map(str, arguments)]))
        return [process.wait(280) for process in processes]

    def batches(self) -> list[list[list[str]]]:
        """The keys of each batch so far, by rank."""
        texts = [(self._folder / f"{rank}.keys").read_text() for rank in range(2)]
        return [[json.loads(line) for line in text.splitlines()] for text in texts]


@pytest.mark.timeout(600)  # four processes that import PyTorch, and sixteen workers
def test_ranks_and_workers_cover_each_row_once_and_resume_after_a_kill(
    shards: Path, tmp_path: Path
) -> None:
    """2 ranks x 4 workers."""
    ranks = Ranks(shards, tmp_path)
    assert ranks.run(stop=13) == [-9, -9]
    assert [len(batches) for batches in ranks.batches()] == [13, 13]
    assert ranks.run() == [0, 0]
    expected = [_batches_of_rank(shards, rank) for rank in range(2)]
    assert ranks.batches() == expected
    assert len(expected[0]) == len(expected[1]) == WORKERS * 8  # 126 rows, in batches of 16
    keys = flat([*expected[0], *expected[1]])
    assert len(keys) == len(set(keys)) == ROWS


def _batches_of_rank(shards: Path, rank: int) -> list[list[str]]:
    """What the workers of a rank read, a batch of each in turn, without any process."""
    dataset = TokenDataset(str(shards), columns=["key"])
    stream = TokenStream(dataset, 16, seed=3, rank=rank, ranks=2, shuffle_rows=100)
    workers = [stream.batches(0, (rank * WORKERS + n, 2 * WORKERS)) for n in range(WORKERS)]
    return [batch.columns["key"] for turn in zip(*workers, strict=True) for batch in turn]


@pytest.mark.parametrize("workers", [0, 3])
def test_loader_yields_tensors_labels_and_columns(dataset: TokenDataset, workers: int) -> None:
    loader = TokenLoader(dataset, 64, workers=workers)
    batches = list(loader)
    assert len(batches) == len(loader)
    for batch in batches:
        assert batch["tokens"].dtype == batch["label"].dtype == torch.int64
        for key, label, caption in zip(
            batch["key"], batch["label"].tolist(), batch["caption"], strict=True
        ):
            if key.startswith("z/"):
                assert (label, caption) == (-1, None)
            else:
                shard, row = int(key[1:5]), int(key[6:])
                assert dataset.classes[label] == f"class {shard}"
                assert caption == f"photo {row} of {shard}"


def test_loader_has_another_order_in_each_epoch(dataset: TokenDataset) -> None:
    loader = TokenLoader(dataset, 100, seed=1)
    first, second = flat(keys_of(loader)), flat(keys_of(loader))
    assert loader.epoch == 2
    assert first != second
    assert sorted(first) == sorted(second)
    assert flat(keys_of(TokenLoader(dataset, 100, seed=1))) == first
    assert flat(keys_of(TokenLoader(dataset, 100, shuffle=False))) == sorted(first)


@pytest.mark.parametrize("persistent", [False, True])
def test_loader_with_workers_resumes_in_the_second_epoch(
    dataset: TokenDataset, persistent: bool
) -> None:
    options: dict[str, Any] = {"workers": 2, "persistent_workers": persistent, "drop_last": True}
    loader = TokenLoader(dataset, 32, **options)
    epochs = [keys_of(loader) for _ in range(3)]
    again = TokenLoader(dataset, 32, **options)
    list(again)
    taken = [batch["key"] for _, batch in zip(range(5), again, strict=False)]
    assert taken == epochs[1][:5]
    state = json.loads(json.dumps(again.state_dict()))
    assert state["done"] == 5
    resumed = TokenLoader(dataset, 32, **options)
    resumed.load_state_dict(state)
    assert keys_of(resumed) == epochs[1][5:]
    assert keys_of(resumed) == epochs[2]


def test_loader_refuses_the_state_of_another(dataset: TokenDataset) -> None:
    state = TokenLoader(dataset, 32).state_dict()
    with pytest.raises(ValueError, match="workers = 0, and this is workers = 2"):
        TokenLoader(dataset, 32, workers=2).load_state_dict(state)


def test_loader_starts_workers_anew(dataset: TokenDataset) -> None:
    """With spawn, where the dataset is pickled."""
    loader = TokenLoader(dataset, 300, workers=1, multiprocessing_context="spawn")
    assert len(flat(keys_of(loader))) == ROWS


def test_stateful_data_loader_resumes_in_mid_epoch(dataset: TokenDataset) -> None:
    """torchdata's, with 2 workers: it saves the state of each."""

    def loader() -> tuple[TokenStream, StatefulDataLoader[Any]]:
        stream = TokenStream(dataset, 32, seed=5, rank=1, ranks=2)
        stream.set_epoch(1)
        return stream, StatefulDataLoader(stream, batch_size=None, num_workers=2)

    _, whole = loader()
    expected = keys_of(whole)
    _, begun = loader()
    taken = []
    for batch in begun:
        taken.append(batch["key"])
        if len(taken) == 5:
            state = begun.state_dict()
            break
    stream, resumed = loader()
    resumed.load_state_dict(state)
    assert taken + keys_of(resumed) == expected
    stream.set_epoch(2)
    after = keys_of(resumed)
    assert len(after) == len(expected)
    assert after != expected


def test_data_loader_takes_the_dataset_as_a_map(dataset: TokenDataset) -> None:
    """With PyTorch's own shuffle and sampler, in workers."""
    plain = TokenDataset(str(Path(dataset.shards[0]).parent), columns=["key"])
    loader: DataLoader[Any] = DataLoader(plain, batch_size=100, shuffle=True, num_workers=2)  # type: ignore[arg-type]
    batches = list(loader)
    assert batches[0]["tokens"].shape == (100, 8)
    assert sorted(flat(keys_of(batches))) == sorted(
        row["key"] for row in map(plain.__getitem__, range(ROWS))
    )


def test_stream_refuses_a_rank_without_ranks(dataset: TokenDataset) -> None:
    with pytest.raises(ValueError, match="both rank and ranks"):
        TokenStream(dataset, 4, rank=1)
    with pytest.raises(ValueError, match="part is"):
        TokenStream(dataset, 4, rank=2, ranks=2)


def test_workers_read_an_object_store(tmp_path: Path) -> None:
    """Also after the fork, with connections of their own."""
    with s3_server() as s3:
        fs = fsspec.filesystem("s3", **s3.options)
        for path in token_shards.dataset(tmp_path / "shards", 4, 50).iterdir():
            fs.pipe_file(f"{BUCKET}/tokens/{path.name}", path.read_bytes())
        dataset = TokenDataset(f"s3://{BUCKET}/tokens", columns=["key"])
        loader = TokenLoader(dataset, 16, workers=2)
        assert len(set(flat(keys_of(loader)))) == 200
        s3.revoke()
        with pytest.raises(PermissionError):
            list(loader)
