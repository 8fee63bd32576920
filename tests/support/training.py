"""Training data and recipes for tests: WebDataset shards of photographs, recipes without data."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizer.training.recipe import TokenizerRecipe


def write_shard(path: Path, photos: Iterable[bytes], folders: Iterable[str] = ()) -> None:
    """A tar of JPEGs: members 0000.jpg, 0001.jpg and so on, or FOLDER/0.jpg with a folder each."""
    names = [f"{folder}/{i}.jpg" for i, folder in enumerate(folders)]
    with tarfile.open(path, "w") as tar:
        for i, data in enumerate(photos):
            member = tarfile.TarInfo(names[i] if names else f"{i:04d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def recipe_without_data(**settings: Any) -> TokenizerRecipe:
    """A recipe for what needs no photos, such as learning rates and losses."""
    return TokenizerRecipe.model_validate({"train": "unused", "validation": "unused"} | settings)
