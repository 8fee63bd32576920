"""Data loading: training batches and evaluation photos from shards."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import imaging
from tests.support.photographs import crops
from tokenizer.training.data import evaluation_photos, shards, training_batches

# webdataset leaves its tar files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_training_batches_are_endless_and_reshuffled_every_epoch(shard: Path) -> None:
    batches = list(
        islice(training_batches(str(shard), 64, 2, seed=0), 7)
    )  # five photos: two batches an epoch
    for batch in batches:
        assert (batch.shape, batch.dtype) == ((2, 3, 64, 64), torch.float32)
        assert -1 <= batch.min() < 0 < batch.max() <= 1
    assert len({float(batch.sum()) for batch in batches}) == 7


def test_training_batches_repeat_with_their_seed(shard: Path) -> None:
    first, again, other = (next(training_batches(str(shard), 32, 4, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_batches_refuse_fewer_photos_than_a_batch(shard: Path) -> None:
    with pytest.raises(ValueError, match="fewer photos than one batch of 6"):
        next(training_batches(str(shard), 32, 6, seed=0))


def test_evaluation_photos_equal_what_serving_prepares(shard: Path) -> None:
    photos = evaluation_photos(str(shard), 32)
    assert (photos.shape, photos.dtype) == ((5, 32, 32, 3), np.uint8)
    assert np.array_equal(photos, np.stack([imaging.prepare(data, 32) for data in crops(5)]))
    assert np.array_equal(evaluation_photos(str(shard), 32, 2), photos[:2])


def test_shards_takes_a_folder_a_file_or_a_glob(shard: Path) -> None:
    assert (
        shards(str(shard))
        == shards(str(shard.parent))
        == shards(f"{shard.parent}/p*.tar")
        == [str(shard)]
    )
    with pytest.raises(FileNotFoundError, match="no tar files"):
        shards(f"{shard.parent}/q*.tar")
