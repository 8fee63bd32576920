"""WebDataset shards of photographs."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.photographs import crops


def write_shard(path: Path, photos: Iterable[bytes]) -> None:
    """JPEGs as members 0000.jpg, 0001.jpg and so on."""
    with tarfile.open(path, "w") as tar:
        for i, data in enumerate(photos):
            member = tarfile.TarInfo(f"{i:04d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Five different JPEGs of 128 to 300 pixels a side."""
    path = tmp_path / "photos.tar"
    write_shard(path, crops(5))
    return path
