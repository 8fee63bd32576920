"""The tokens of all training photos, encoded once and kept: a generator never sees a pixel.

Pass 0 holds each photo by the image contract, pass 1 the same mirrored, and each later pass a random crop, half of them mirrored. A pass
that was once encoded by a tokenizer lies in `<folder>/<fingerprint>/`, so a longer run encodes only what is new.
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
from tokenizer.training.data import SUFFIXES, RandomCrop, shards

NO_CLASS = -1
BATCH = 64


@dataclass(frozen=True)
class Photos:
    """tokens: int32 [N, C]. classes: the folder of each photo, N names."""

    tokens: NDArray[np.int32]
    classes: list[str]

    def labels(self, names: list[str]) -> NDArray[np.int64]:
        """Index of each photo's class in `names`, NO_CLASS where it is none of them: int64 [N]."""
        index = {name: i for i, name in enumerate(names)}
        return np.array([index.get(name, NO_CLASS) for name in self.classes])


def encoded(model: Tokenizer, pattern: str, passes: int, folder: Path) -> list[Photos]:
    """All photos of the shards at `pattern`, as tokenizer.training.data.shards takes it, in so many passes.

    Raises FileNotFoundError when there are no shards.
    """
    return [
        _pass(model, pattern, number, folder / checkpoint.fingerprint(model))
        for number in range(passes)
    ]


def _pass(model: Tokenizer, pattern: str, number: int, folder: Path) -> Photos:
    path = folder / f"{Path(pattern).stem}-{number}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        batches = list(_encode(model, pattern, number))
        temporary = path.with_suffix(".tmp.npz")
        np.savez(
            temporary,
            tokens=np.concatenate([tokens for tokens, _ in batches]),
            classes=[name for _, names in batches for name in names],
        )
        os.replace(temporary, path)
    with np.load(path) as file:
        return Photos(file["tokens"], file["classes"].tolist())


def _encode(
    model: Tokenizer, pattern: str, number: int
) -> Iterator[tuple[NDArray[np.int32], list[str]]]:
    size = model.shape.image_size
    crop = RandomCrop(size, seed=number)
    dataset = (
        wds.WebDataset(shards(pattern), shardshuffle=False)
        .to_tuple("__key__", SUFFIXES)
        .batched(BATCH)
    )
    for keys, photos in tqdm(dataset, desc=f"encoding pass {number}", unit="batch", leave=False):
        pixels = np.stack(
            [crop(data) if number > 1 else imaging.prepare(data, size) for data in photos]
        )
        if number == 1:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        yield inference.encode(model, pixels).numpy(), [Path(key).parent.name for key in keys]
