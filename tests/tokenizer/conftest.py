"""A WebDataset shard of photographs."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.photographs import crops


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Five different JPEGs of 128 to 300 pixels a side."""
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for i, data in enumerate(crops(5)):
            member = tarfile.TarInfo(f"{i:04d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
