"""Data loading: training batches and evaluation images from WebDataset shards or image files.

Shards are tar files whose members are `key.jpg` (or .jpeg, .png, .webp).
"""

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
from tokenizer.inference import to_unit
from tokenizer.training.readable_photos import SUFFIXES, ReadablePhotos

# Encoded photos. Shards of different sources are mixed only if the buffer spans several shards.
SHUFFLE_BUFFER = 10_000
MIN_AREA = 0.4  # smallest share of a photo that a crop covers
MAX_STRETCH = 4 / 3  # largest aspect ratio of a crop, either way


def shards(pattern: str) -> list[str]:
    """The tar files of a folder, a file, or a glob pattern, sorted.

    Raises FileNotFoundError when there are none.
    """
    paths = sorted(glob.glob(f"{pattern}/*.tar" if Path(pattern).is_dir() else pattern))
    if not paths:
        raise FileNotFoundError(
            f"no tar files at {pattern!r}: give a folder with .tar shards, one .tar, or a glob"
        )
    return paths


def training_batches(
    pattern: str, size: int, batch: int, seed: int, workers: int = 0, min_area: float = MIN_AREA
) -> Iterator[Tensor]:
    """Endless batches float32 [batch, 3, size, size] in [-1, 1] of random resized crops.

    Half of the crops are mirrored. Photos that cannot be read are skipped, see ReadablePhotos.
    pattern: see `shards`. seed: of order and crops. A resumed run
    needs another seed, to see other photos first, and so does each process of a run, which reads
    its own part of the shards.
    workers: decoding processes; 0 decodes in this one. min_area: the smallest share of a photo's
    area that a crop covers. Raises ValueError when the shards, or this process's part of them, hold
    fewer photos than one batch that can be read.
    """
    # detshuffle reshuffles every epoch; plain shuffle starts each from the same seed.
    # webdataset 1.0 ignores WebDataset(repeat=True).
    dataset = (
        wds.WebDataset(
            shards(pattern),
            shardshuffle=1000,
            detshuffle=True,
            seed=seed,
            nodesplitter=wds.split_by_node,
        )
        .compose(wds.detshuffle(SHUFFLE_BUFFER, SHUFFLE_BUFFER // 2, seed))
        .compose(ReadablePhotos(RandomCrop(size, seed, min_area)))
        .batched(batch, partial=False)
        .repeat()
    )
    # No workers by default: on a CPU decoding is 4 % of a step, and a worker competing with compute
    # made each step slower.
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=workers)
    for _, photos in loader:
        yield to_unit(torch.as_tensor(photos))
    raise ValueError(
        f"the shards at {pattern!r} hold fewer photos than one batch of {batch} for each process "
        "that reads them, not counting those that cannot be read"
    )


def evaluation_photos(pattern: str, size: int, count: int | None = None) -> NDArray[np.uint8]:
    """The first `count` photos (all when None) by the image contract: uint8 [count, size, size, 3].

    Photos that cannot be read are skipped, see ReadablePhotos. pattern: image files or .tar shards,
    sorted by name: a folder of either, one file, or a glob. Raises FileNotFoundError when there are
    none, ValueError when none can be read.
    """
    readable = ReadablePhotos(lambda data: imaging.prepare(data, size))
    photos = [photo for _, photo in islice(_photos(pattern, readable), count)]
    if not photos:
        raise ValueError(f"no photo at {pattern!r} can be read")
    return np.stack(photos)


def _photos(
    pattern: str, readable: ReadablePhotos[NDArray[np.uint8]]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    paths = sorted(glob.glob(f"{pattern}/*") if Path(pattern).is_dir() else glob.glob(pattern))
    photos = [path for path in paths if Path(path).suffix[1:].lower() in SUFFIXES.split(";")]
    if photos:
        return readable.read_all((path, Path(path).read_bytes()) for path in photos)
    # nodesplitter=None: the process that evaluates reads all shards
    return readable(wds.WebDataset(shards(pattern), shardshuffle=False, nodesplitter=None))


class RandomCrop:
    """Random resized crop of an encoded photo: uint8 [size, size, 3], mirrored half of the time.

    It covers min_area to 1 of the photo's area, with an aspect ratio of 3:4 to 4:3.
    """

    def __init__(self, size: int, seed: int, min_area: float = MIN_AREA) -> None:
        self.size, self.min_area = size, min_area
        self.seed = seed
        self.random: random.Random | None = None

    def __call__(self, data: bytes) -> NDArray[np.uint8]:
        if self.random is None:  # created lazily, so that every worker draws its own crops
            worker = get_worker_info()
            self.random = random.Random(self.seed + (0 if worker is None else 1 + worker.id))
        image = imaging.open_image(data)
        width, height = image.width, image.height
        area = width * height * self.random.uniform(self.min_area, 1.0)
        ratio = MAX_STRETCH ** self.random.uniform(-1, 1)
        w, h = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
        left, top = self.random.uniform(0, width - w), self.random.uniform(0, height - h)
        pixels = image.crop((left, top, left + w, top + h), self.size, self.size)
        return pixels[:, ::-1].copy() if self.random.random() < 0.5 else pixels
