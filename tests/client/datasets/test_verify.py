"""verify: a sample tokenized again and compared with the stored tokens."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from channeltok import ChannelTokError
from channeltok.datasets import SourceError, detokenize, verify

from service.engine.in_process import InProcessEngine
from tests.client.datasets.conftest import KEYS, MEMBERS
from tests.support import dataset_files
from tests.support.photographs import crops


def test_verify_finds_an_unchanged_dataset_equal(engine: InProcessEngine, tokenized: Path) -> None:
    verified = verify(str(tokenized / "source"), str(tokenized / "tokens"), engine, sample=20)
    assert (verified.images, verified.different, verified.missing) == (20, [], [])


def test_verify_reports_changed_images_and_a_missing_shard(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenized / "source", tmp_path / "source")
    dataset_files.tar(
        tmp_path / "source/train-1.tar", zip(MEMBERS[10:20], crops(10, seed=9), strict=True)
    )
    (tmp_path / "source/train-2.tar").unlink()
    verified = verify(str(tmp_path / "source"), str(tokenized / "tokens"), engine, sample=30)
    assert KEYS[10] in verified.different
    # Other sizes move images in the tar.
    assert sorted([*verified.different, *verified.missing]) == sorted(KEYS[10:])
    assert set(KEYS[20:]) <= set(verified.missing)


def test_verify_goes_by_place_and_not_by_key(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path
) -> None:
    """Tokens of older releases have other keys, and repeated ones."""
    shutil.copytree(tokenized / "tokens", tmp_path / "tokens")
    for path in (tmp_path / "tokens").glob("*.parquet"):
        table = pq.read_table(path)
        rows = [{**row, "key": "the same"} for row in table.to_pylist()]
        pq.write_table(type(table).from_pylist(rows, table.schema), path)
    verified = verify(str(tokenized / "source"), str(tmp_path / "tokens"), engine, sample=30)
    assert (verified.images, verified.different, verified.missing) == (30, [], [])


def test_verify_reports_an_unreadable_image_as_different(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenized / "source", tmp_path / "source")
    images = crops(10, seed=9)
    dataset_files.tar(
        tmp_path / "source/train-1.tar",
        [(MEMBERS[10], b"no image"), *zip(MEMBERS[11:20], images[1:], strict=True)],
    )
    verified = verify(str(tmp_path / "source"), str(tokenized / "tokens"), engine, sample=30)
    assert KEYS[10] in verified.different
    assert sorted([*verified.different, *verified.missing]) == sorted(KEYS[10:20])


def test_verify_and_detokenize_name_a_foreign_fingerprint(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenized / "tokens", tmp_path / "tokens")
    for path in (tmp_path / "tokens").glob("*.parquet"):
        table = pq.read_table(path)
        rows = [{**row, "fingerprint": "0123456789abcdef"} for row in table.to_pylist()]
        pq.write_table(type(table).from_pylist(rows, table.schema), path)
    for work in (
        lambda: verify(str(tokenized / "source"), str(tmp_path / "tokens"), engine),
        lambda: detokenize(str(tmp_path / "tokens"), tmp_path / "p", engine),
    ):
        with pytest.raises(ChannelTokError, match="0123456789abcdef"):
            work()


def test_verify_refuses_a_dataset_without_rows(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenized / "tokens", tmp_path / "tokens")
    for path in (tmp_path / "tokens").glob("*.parquet"):
        pq.write_table(pq.read_table(path)[:0], path)
    with pytest.raises(SourceError, match="no rows"):
        verify(str(tokenized / "source"), str(tmp_path / "tokens"), engine)
