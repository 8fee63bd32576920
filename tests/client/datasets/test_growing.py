"""tokenize: sources that grow between runs, and parts of a source on several machines."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from channeltok.datasets import ShardFailed, tokenize, verify
from channeltok.datasets.sources import cut

from tests.support import dataset_files
from tests.support.byte_engine import ByteEngine, tokens_of

IMAGES = [(f"{number:03d}", b"image %d" % number) for number in range(100)]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "FOLDER_SHARD_IMAGES", 10)


def _ids(tokens: Path) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for path in sorted(tokens.rglob("*.parquet")):
        for row in pq.read_table(path, columns=["key", "tokens"]).to_pylist():
            assert row["key"] not in rows
            rows[row["key"]] = row["tokens"]
    return rows


def _expected(images: Sequence[tuple[str, bytes]]) -> dict[str, list[int]]:
    return {key: tokens_of(image).ids.tolist() for key, image in images}


def test_added_images_make_new_shards_and_change_no_other(tmp_path: Path) -> None:
    source, tokens = tmp_path / "photos", tmp_path / "tokens"
    dataset_files.folder(source, IMAGES[1:50:2])
    assert tokenize(str(source), str(tokens), [ByteEngine()]).shards == 3
    before = {path: path.stat().st_mtime_ns for path in tokens.glob("*.parquet")}
    dataset_files.folder(source, IMAGES[0:50:2])  # each between two others
    engine = ByteEngine()
    summary = tokenize(str(source), str(tokens), [engine])
    assert (summary.done_before, summary.shards, summary.images) == (3, 6, 50)
    assert engine.answers == 25
    assert {path: path.stat().st_mtime_ns for path in before} == before
    dataset_files.folder(source, IMAGES[50:])
    assert tokenize(str(source), str(tokens), [ByteEngine()]).done_before == 6
    assert _ids(tokens) == _expected(IMAGES)
    assert tokenize(str(source), str(tokens), [ByteEngine()]).new_images == 0
    assert verify(str(source), str(tokens), ByteEngine()).missing == []


def test_a_file_with_other_parts_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "SPLIT_BYTES", 20_000)
    monkeypatch.setattr(cut, "PART_BYTES", 20_000)
    source, tokens = tmp_path / "source", tmp_path / "tokens"
    dataset_files.tar(source / "a.tar", IMAGES[:30])
    assert tokenize(str(source), str(tokens), [ByteEngine()]).images == 30
    before = _ids(tokens)
    dataset_files.tar(source / "a.tar", IMAGES[:60])
    dataset_files.tar(source / "b.tar", IMAGES[:3])
    for _ in range(2):
        with pytest.raises(ShardFailed, match=r"a\.tar.* has changed since"):
            tokenize(str(source), str(tokens), [ByteEngine()])
    assert _ids(tokens).keys() - before.keys() == {f"b/{number:03d}" for number in range(3)}
    (tmp_path / "source/b").mkdir()
    (tmp_path / "source/b/x.jpg").write_bytes(b"x")  # so b.tar cannot be named b any more
    with pytest.raises(ShardFailed, match=r"b\.tar.* has changed since|a\.tar"):
        tokenize(str(source), str(tokens), [ByteEngine()])
    assert _ids(tokens).keys() - before.keys() == {f"b/{number:03d}" for number in range(3)} | {
        "b/x"
    }


def test_an_added_image_takes_no_key_from_another(tmp_path: Path) -> None:
    source, tokens = tmp_path / "photos", tmp_path / "tokens"
    dataset_files.folder(source, [("a", b"first")])
    tokenize(str(source), str(tokens), [ByteEngine()])
    (source / "a.jpeg").write_bytes(b"second")  # sorts before a.jpg
    tokenize(str(source), str(tokens), [ByteEngine()])
    assert _ids(tokens) == _expected([("a", b"first"), ("a#1", b"second")])


def test_an_unfinished_shard_goes_on_without_what_is_gone(tmp_path: Path) -> None:
    source, tokens = tmp_path / "photos", tmp_path / "tokens"
    images = [(key, b"bad" if int(key) < 10 else image) for key, image in IMAGES[:20]]
    dataset_files.folder(source, images)
    with pytest.raises(ShardFailed, match="all 10 images were rejected"):
        tokenize(str(source), str(tokens), [ByteEngine()])
    for key, _ in IMAGES[:9]:
        (source / f"{key}.jpg").unlink()
    (source / "009.jpg").write_bytes(b"good")
    assert tokenize(str(source), str(tokens), [ByteEngine()]).images == 11
    (source / "015.jpg").unlink()
    with pytest.raises(ShardFailed, match="has changed since images-00001"):
        tokenize(str(source), str(tokens), [ByteEngine()])


def test_an_added_tar_is_a_new_shard(tmp_path: Path) -> None:
    source, tokens = tmp_path / "source", tmp_path / "tokens"
    dataset_files.tar(source / "b.tar", IMAGES[:10])
    tokenize(str(source), str(tokens), [ByteEngine()])
    dataset_files.tar(source / "a.tar", IMAGES[10:20])
    summary = tokenize(str(source), str(tokens), [ByteEngine()])
    assert (summary.done_before, summary.new_images, summary.images) == (1, 10, 20)


def test_parts_do_each_shard_once(tmp_path: Path) -> None:
    source, tokens = tmp_path / "photos", tmp_path / "tokens"
    dataset_files.folder(source, IMAGES)
    engines = [ByteEngine() for _ in range(3)]
    shards = 0
    for number, engine in enumerate(engines, 1):
        summary = tokenize(str(source), str(tokens), [engine], part=f"{number}/3")
        assert summary.done_before == 0
        shards += summary.shards
    assert shards == 10
    assert [engine.answers for engine in engines] == [40, 30, 30]
    assert _ids(tokens) == _expected(IMAGES)
    names = sorted(path.name for path in (tokens / ".channeltok").glob("summary*"))
    assert names == [f"summary-{number}-of-3.json" for number in (1, 2, 3)]
    whole = tokenize(str(source), str(tokens), [ByteEngine()])
    assert (whole.new_images, whole.images, whole.done_before) == (0, 100, 10)
    summary_file = tokens / ".channeltok/summary.json"
    assert json.loads(summary_file.read_text())["images"] == 100
    again = tokenize(str(source), str(tokens), [ByteEngine()], part="2/3")
    assert (again.done_before, again.new_images) == (3, 0)
    assert tokenize(str(source), str(tokens), [ByteEngine()], part="12/12").shards == 0


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", ""])
def test_parts_that_are_none_are_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(ValueError, match="a part is I/N"):
        tokenize(str(tmp_path), str(tmp_path / "t"), [ByteEngine()], part=part)
