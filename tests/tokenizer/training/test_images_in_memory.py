"""In-memory training set: crops equal Pillow's, epochs are complete, processes draw differently."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tokenizer.training.images_in_memory import (
    LONG_SIDE,
    SHORT_SIDE,
    PhotosInMemory,
    change_colours,
    resampling,
)

CPU = torch.device("cpu")
pytestmark = [  # webdataset leaves its tar files to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def noise(height: int, width: int) -> NDArray[np.uint8]:
    # Pillow clips between rows and columns; grey noise never gets there.
    return np.random.default_rng(0).integers(64, 192, (height, width, 3), np.uint8)


@pytest.mark.parametrize("box", [(10.3, 5.2, 150.0, 140.0), (0, 0, 90, 100), (0, 0, 200, 170)])
def test_resampling_equals_pillow(box: tuple[float, float, float, float]) -> None:
    left, top, width, height = box
    photo = noise(170, 200)
    store = PhotosInMemory([photo], CPU)
    rows = resampling(torch.tensor([top]), torch.tensor([height]), store.heights, SHORT_SIDE, 128)
    columns = resampling(torch.tensor([left]), torch.tensor([width]), store.widths, LONG_SIDE, 128)
    ours = (rows[:, None] @ store.pixels.float() @ columns[:, None].transpose(2, 3))[0]
    pillow = Image.fromarray(photo).resize(
        (128, 128), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )
    difference = ours.clamp(0, 255).round().permute(1, 2, 0).numpy() - np.asarray(
        pillow, np.float32
    )
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("original", "kept"),
    [
        ((128, 190), (128, 190)),
        ((190, 128), (128, 190)),
        ((352, 352), (176, 176)),
        ((176, 528), (176, 264)),
    ],
)
def test_photos_in_memory_fit_and_portraits_are_transposed(
    original: tuple[int, int], kept: tuple[int, int]
) -> None:
    store = PhotosInMemory([noise(*original)], CPU)
    assert (int(store.heights[0]), int(store.widths[0])) == kept
    assert bool(store.is_portrait[0]) == (original[0] > original[1])


def test_photos_in_memory_portraits_come_out_upright() -> None:
    photo = np.zeros((200, 130, 3), np.uint8)
    photo[:100] = 255  # the upper half is white
    batch = next(PhotosInMemory([photo], CPU).batches(32, 1, 0, min_area=1.0, colour=0.0))
    assert batch[0, :, :8].min() > 0.9
    assert batch[0, :, -8:].max() < -0.9


def test_photos_in_memory_yield_each_photo_once_an_epoch_in_new_order() -> None:
    greys = [np.full((130, 130, 3), 20 * i, np.uint8) for i in range(12)]
    batches = PhotosInMemory(greys, CPU).batches(32, 4, 0, min_area=0.5, colour=0.0)
    epochs = [torch.cat(list(islice(batches, 3))).mean((1, 2, 3)) for _ in range(2)]
    assert torch.allclose(epochs[0].sort().values, torch.arange(12) * 20 / 127.5 - 1, atol=1e-3)
    assert not torch.allclose(epochs[0], epochs[1])
    assert torch.allclose(epochs[0].sort().values, epochs[1].sort().values, atol=1e-3)


def test_photos_in_memory_split_epochs_among_processes() -> None:
    store = PhotosInMemory([noise(140, 180)] * 2 + [np.zeros((140, 180, 3), np.uint8)] * 2, CPU)
    first, second = (
        next(store.batches(32, 2, 0, min_area=0.5, colour=0.0, rank=rank, processes=2))
        for rank in range(2)
    )
    black = [int((part.amax((1, 2, 3)) < -0.99).sum()) for part in (first, second)]
    assert sum(black) == 2
    again = next(store.batches(32, 2, 0, min_area=0.5, colour=0.0, rank=0, processes=2))
    assert torch.equal(first, again)


def test_photos_in_memory_batches_suit_the_model(shard: Path) -> None:
    store = PhotosInMemory.from_shards(str(shard), CPU)
    assert len(store) == 5
    batch = next(store.batches(64, 4, 0, min_area=0.3, colour=0.2))
    assert (batch.shape, batch.dtype) == ((4, 3, 64, 64), torch.float32)
    assert -1 <= batch.min() < 0 < batch.max() <= 1
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_photos_in_memory_refuse_fewer_photos_than_a_batch() -> None:
    with pytest.raises(ValueError, match="no photos"):
        PhotosInMemory([], CPU)
    with pytest.raises(ValueError, match="1 photos are fewer than one batch of 2"):
        next(PhotosInMemory([noise(130, 130)], CPU).batches(32, 2, 0, min_area=1.0, colour=0.0))


def test_change_colours_stays_within_its_strength() -> None:
    pixels = torch.rand(64, 3, 8, 8) * 0.2 - 0.1
    draw = torch.Generator().manual_seed(0)
    change = (change_colours(pixels, 0.2, draw) - pixels).abs()
    assert 0.02 < change.mean() < 0.1
    assert change.max() <= 0.1 + 0.2 * 1.2 * 0.4
