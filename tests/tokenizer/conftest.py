"""A WebDataset shard of photographs."""

from pathlib import Path

import pytest

from tests.support.photographs import crops
from tests.support.training import write_shard


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Five different JPEGs of 128 to 300 pixels a side."""
    path = tmp_path / "photos.tar"
    write_shard(path, crops(5))
    return path
