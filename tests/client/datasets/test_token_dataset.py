"""TokenDataset: batches and rows of token shards."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from channeltok import Tokens
from channeltok.datasets import SourceError, TokenDataset

from tests.client.datasets.conftest import KEYS, K


def test_batches_are_prefixes_in_order(tokenized: Path) -> None:
    dataset = TokenDataset(str(tokenized / "tokens"), k=16)
    assert (len(dataset), dataset.k, dataset.classes) == (30, 16, ["a", "b", "c"])
    batches = list(dataset.batches(8))
    assert [len(batch.tokens) for batch in batches] == [8, 8, 8, 6]
    tokens = np.concatenate([batch.tokens for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    whole = [tokens.ids for _, tokens in TokenDataset(str(tokenized / "tokens")).rows()]
    assert tokens.dtype == labels.dtype == np.int64
    assert np.array_equal(tokens, np.stack(whole)[:, :16])
    assert labels.tolist() == ["abc".index(key[0]) for key in KEYS]


def test_batches_with_a_seed_shuffle_all_rows(tokenized: Path) -> None:
    dataset = TokenDataset(str(tokenized / "tokens"))

    def rows(seed: int | None) -> list[bytes]:
        return [row.tobytes() for batch in dataset.batches(7, seed=seed) for row in batch.tokens]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2) != rows(None)
    assert sorted(rows(1)) == sorted(rows(None))


def test_batches_of_parts_share_the_rows(tokenized: Path) -> None:
    dataset = TokenDataset(str(tokenized / "tokens"))
    parts = [
        [row.tobytes() for batch in dataset.batches(4, seed=5, part=(i, 3)) for row in batch.tokens]
        for i in range(3)
    ]
    assert [len(part) for part in parts] == [12, 9, 9]
    assert max(Counter(row for part in parts for row in part).values()) == 1


def test_batches_convert_to_torch(tokenized: Path) -> None:
    import torch

    dataset = TokenDataset(str(tokenized / "tokens"), k=8)
    batch = next(dataset.batches(4))
    assert torch.from_numpy(batch.tokens).shape == (4, 8)


@pytest.mark.parametrize("k", [0, -1, 65])
def test_token_dataset_refuses_k_out_of_range(tokenized: Path, k: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        TokenDataset(str(tokenized / "tokens"), k)


def test_token_dataset_refuses_a_folder_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no token shards"):
        TokenDataset(str(tmp_path))


def test_rows_have_all_tokens(tokenized: Path) -> None:
    key, tokens = next(TokenDataset(str(tokenized / "tokens")).rows())
    assert key == KEYS[0]
    assert isinstance(tokens, Tokens)
    assert tokens.k == K
