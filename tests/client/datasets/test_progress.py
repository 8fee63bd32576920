"""ProgressBar: what it says where stderr is not a terminal."""

from pathlib import Path

import pytest
from channeltok.datasets import progress
from channeltok.datasets.progress import ProgressBar
from channeltok.datasets.sources import Shard, find_shards

from tests.support import dataset_files


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    for name in "ab":
        dataset_files.tar(tmp_path / f"{name}.tar", [("x", bytes(1000))])
    return find_shards(str(tmp_path)).shards


def test_progress_within_a_shard(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", -1.0)
    with ProgressBar() as bar:
        bar.begin(2, 0, sum(shard.size for shard in shards))
        bar.advance(shards[0], shards[0].size // 2, 1, 0)
        assert "25%, 1 images" in capsys.readouterr().err
        bar.finish(shards[0], 2, 0)
        assert "a: 2 images, 0 rejects; 50%, " in capsys.readouterr().err


def test_a_failed_attempt_is_not_counted(
    shards: list[Shard], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar() as bar:
        bar.begin(2, 0, sum(shard.size for shard in shards))
        for _ in range(3):
            bar.advance(shards[0], 100, 5, 2)
            bar.fail(shards[0], "broken", retrying=True)
        bar.advance(shards[0], 100, 5, 2)
        bar.finish(shards[0], 5, 2)
        printed = capsys.readouterr().err
        assert "50%, 5 images" in printed
        assert "2 rejects, 1 of 2 shards, 3 retries" in printed


def test_many_retries_are_counted_and_not_all_told(
    shards: list[Shard], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar() as bar:
        bar.begin(2, 0, 1)
        for _ in range(100):
            bar.fail(shards[0], "away", retrying=True)
        bar.fail(shards[1], "gone", retrying=False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == progress.RETRIES_TOLD + 1
    assert "more of these are only counted" in lines[-2]
    assert lines[-1] == "b: gone; given up"
