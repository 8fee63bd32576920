"""Data loading: training batches and evaluation photos from shards."""

import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import imaging
from tests.support.photographs import crops
from tests.support.training import write_shard
from tokenizer.training.data import evaluation_photos, shards, training_batches
from tokenizer.training.images_in_memory import PhotosInMemory

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


def _shard_with_bad_photos(path: Path) -> Path:
    """Five photos between an empty one, half a one, another format, and a sample without one."""
    photos = crops(5)
    bad = [b"", photos[0][: len(photos[0]) // 2], b"GIF89a" + bytes(50)]
    write_shard(path, [*photos[:2], *bad, *photos[2:]])
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("zz-caption.txt")
        tar.addfile(member)
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_training_skips_bad_photos_and_counts_them_by_name(
    tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    shard = _shard_with_bad_photos(tmp_path / "photos.tar")
    batches = list(islice(training_batches(str(shard), 32, 2, 0, workers), 6))
    assert {batch.shape for batch in batches} == {(2, 3, 32, 32)}
    written = capfd.readouterr().err
    assert written.count("skipped photos.tar/") == 4
    assert "photos.tar/zz-caption: the sample has no photo" in written
    assert "4 of 9 photos were skipped" in written


def test_evaluation_skips_bad_photos(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shard = _shard_with_bad_photos(tmp_path / "photos.tar")
    expected = np.stack([imaging.prepare(data, 32) for data in crops(5)])
    assert np.array_equal(evaluation_photos(str(shard), 32), expected)
    assert "4 of 9 photos were skipped" in capfd.readouterr().err
    assert np.array_equal(evaluation_photos(str(shard), 32, 3), expected[:3])
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    (tmp_path / "b.jpg").write_bytes(crops(1)[0])
    assert np.array_equal(evaluation_photos(f"{tmp_path}/*.jpg", 32), expected[:1])
    assert f"skipped {tmp_path}/a.jpg: not an image" in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"no photo at .*a\.jpg' can be read"):
        evaluation_photos(f"{tmp_path}/a.jpg", 32)


def test_photos_in_memory_skip_bad_photos(tmp_path: Path) -> None:
    shard = _shard_with_bad_photos(tmp_path / "photos.tar")
    assert len(PhotosInMemory.from_shards(str(shard), torch.device("cpu"))) == 5
