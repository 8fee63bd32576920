"""Encode a training set into tokens once, and cache them on disk: generators train on tokens alone.

Pass 0 encodes each photo by the image contract, pass 1 the same mirrored, and each later pass a
random crop, half of them mirrored. A pass is cached in `<folder>/<fingerprint>/`, so a run with
more passes encodes only the new ones.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from tqdm import tqdm

import imaging
from tokenizer import checkpoint, inference
from tokenizer.models.base import Tokenizer
from tokenizer.training.data import RandomCrop, shards
from tokenizer.training.readable_photos import ReadablePhotos

NO_CLASS = -1
BATCH = 64


@dataclass(frozen=True)
class EncodedPhotos:
    """tokens: int32 [N, C]. classes: folder name of each photo, N strings."""

    tokens: NDArray[np.int32]
    classes: list[str]

    def labels(self, names: list[str]) -> NDArray[np.int64]:
        """Index of each photo's class in `names`, NO_CLASS where it is missing: int64 [N]."""
        index = {name: i for i, name in enumerate(names)}
        return np.array([index.get(name, NO_CLASS) for name in self.classes])


def encode_dataset(
    model: Tokenizer, pattern: str, passes: int, folder: Path
) -> list[EncodedPhotos]:
    """All photos of the shards at `pattern` (see tokenizer.training.data.shards), once per pass.

    Raises FileNotFoundError when there are no shards.
    """
    cache = folder / checkpoint.fingerprint(model)
    return [_cached_pass(model, pattern, number, cache) for number in range(passes)]


def _cached_pass(model: Tokenizer, pattern: str, number: int, folder: Path) -> EncodedPhotos:
    path = folder / f"{Path(pattern).stem}-{number}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        batches = list(_encode_pass(model, pattern, number))
        temporary = path.with_suffix(".tmp.npz")
        np.savez(
            temporary,
            tokens=np.concatenate([tokens for tokens, _ in batches]),
            classes=[name for _, names in batches for name in names],
        )
        os.replace(temporary, path)
    with np.load(path) as file:
        return EncodedPhotos(file["tokens"], file["classes"].tolist())


def _encode_pass(
    model: Tokenizer, pattern: str, number: int
) -> Iterator[tuple[NDArray[np.int32], list[str]]]:
    size = model.shape.image_size
    crop = RandomCrop(size, seed=number)
    readable = ReadablePhotos(crop if number > 1 else lambda data: imaging.prepare(data, size))
    dataset = wds.WebDataset(shards(pattern), shardshuffle=False).compose(readable).batched(BATCH)
    for keys, pixels in tqdm(dataset, desc=f"encoding pass {number}", unit="batch", leave=False):
        if number == 1:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        yield inference.encode(model, pixels).numpy(), [folder_of(key) for key in keys]


def folder_of(name: str) -> str:
    """The folder of a photo in its shard: `name` is SHARD/FOLDER/KEY; "" without one."""
    return Path(name.partition("/")[2]).parent.name
