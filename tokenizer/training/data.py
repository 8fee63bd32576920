"""Photos from WebDataset shards: tar files whose members are `key.jpg` (or .png, .webp)."""

import glob
import math
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

import imaging
from imaging.read import crop_and_resize
from tokenizer.inference import to_unit

SHUFFLE_BUFFER = 10_000  # photos, as bytes; a shard of one source is mixed with the others only if the buffer spans several shards
LEAST_AREA = 0.4  # of a photo, that a crop covers
MAX_STRETCH = 4 / 3  # of a crop: width to height, and height to width
SUFFIXES = "jpg;jpeg;png;webp"


def shards(pattern: str) -> list[str]:
    """The tar files of a folder, a file, or a glob pattern, sorted. Raises FileNotFoundError when there are none."""
    found = sorted(glob.glob(f"{pattern}/*.tar" if Path(pattern).is_dir() else pattern))
    if not found:
        raise FileNotFoundError(
            f"no tar files at {pattern!r}: give a folder with .tar shards, one shard, or a glob pattern"
        )
    return found


def training_batches(
    pattern: str, size: int, batch: int, seed: int, workers: int = 0, least_area: float = LEAST_AREA
) -> Iterator[Tensor]:
    """Endless batches float32 [batch, 3, size, size] in [-1, 1]: random resized crops, half of them mirrored.

    seed: a resumed run passes another one, so that it does not see its first photos again in the same order, and so does every process of a
    run, each of which reads its own part of the shards. workers: processes that decode; 0 decodes in this one.
    least_area: the smallest share of a photo's area that a crop covers.
    Raises ValueError when the shards, or this process's part of them, hold fewer photos than one batch.
    """
    # detshuffle mixes every epoch anew; plain shuffle starts each from the same seed. WebDataset(repeat=True) is ignored by webdataset 1.0.
    dataset = (
        wds.WebDataset(
            shards(pattern),
            shardshuffle=1000,
            detshuffle=True,
            seed=seed,
            nodesplitter=wds.split_by_node,
        )
        .compose(wds.detshuffle(SHUFFLE_BUFFER, SHUFFLE_BUFFER // 2, seed))
        .to_tuple(SUFFIXES)
        .map_tuple(RandomCrop(size, seed, least_area))
        .batched(batch, partial=False)
        .repeat()
    )
    # No worker by default: on a CPU decoding is 4 % of a step, and a worker beside all cores of compute made each step slower.
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=workers)
    for (photos,) in loader:
        yield to_unit(torch.as_tensor(photos))
    raise ValueError(
        f"the shards at {pattern!r} hold fewer photos than one batch of {batch} for each process that reads them"
    )


def evaluation_photos(pattern: str, size: int, count: int | None = None) -> NDArray[np.uint8]:
    """The first `count` photos (all when None) by the image contract: uint8 [count, size, size, 3].

    pattern: shards, in their order, or image files, by name: a folder of either, one file, or a glob pattern.
    Raises FileNotFoundError when there are none.
    """
    return np.stack([imaging.prepare(data, size) for data in islice(_files(pattern), count)])


def _files(pattern: str) -> Iterator[bytes]:
    found = sorted(glob.glob(f"{pattern}/*") if Path(pattern).is_dir() else glob.glob(pattern))
    photos = [path for path in found if Path(path).suffix[1:].lower() in SUFFIXES.split(";")]
    if photos:
        yield from (Path(path).read_bytes() for path in photos)
    else:
        # nodesplitter: the one process of a run that evaluates sees them all
        yield from (
            data
            for (data,) in wds.WebDataset(
                shards(pattern), shardshuffle=False, nodesplitter=None
            ).to_tuple(SUFFIXES)
        )


class RandomCrop:
    """A photo as bytes to uint8 [size, size, 3]: least_area to 1 of its area, at most 4:3 out of proportion, mirrored half of the time."""

    def __init__(self, size: int, seed: int, least_area: float = LEAST_AREA) -> None:
        self.size, self.least_area = size, least_area
        self.seed = seed
        self.random: random.Random | None = None

    def __call__(self, data: bytes) -> NDArray[np.uint8]:
        if self.random is None:  # made here, so that every worker draws its own crops
            worker = get_worker_info()
            self.random = random.Random(self.seed + (0 if worker is None else 1 + worker.id))
        image = imaging.decode(data)
        width, height = image.size
        area = width * height * self.random.uniform(self.least_area, 1.0)
        ratio = MAX_STRETCH ** self.random.uniform(-1, 1)
        w, h = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
        left, top = self.random.uniform(0, width - w), self.random.uniform(0, height - h)
        pixels = crop_and_resize(image, self.size, (left, top, left + w, top + h))
        return pixels[:, ::-1].copy() if self.random.random() < 0.5 else pixels
