"""tokenize: sources that go away, and sources in which little can be read."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from channeltok.datasets import (
    ShardFailed,
    SourceError,
    TooManyRejects,
    retries,
    tokenize,
)
from channeltok.datasets.sources import Shard

from tests.support import dataset_files
from tests.support.after_images import After
from tests.support.byte_engine import ByteEngine
from tests.support.s3_server import BUCKET, S3Server, s3_server

IMAGES = [(f"photo-{number:04d}", b"image %d" % number) for number in range(3000)]


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.01)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def _rejects(destination: Path) -> list[str]:
    return (destination / ".channeltok/rejects.jsonl").read_text().splitlines()


def _rows(destination: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in destination.rglob("*.parquet"))


def test_a_folder_that_is_moved_away_fails_its_shards(tmp_path: Path) -> None:
    source, away = dataset_files.folder(tmp_path / "photos", IMAGES), tmp_path / "away"
    listener = After(100, lambda: source.rename(away))
    with pytest.raises(ShardFailed, match=r"shards are not done; .*No such file"):
        tokenize(str(source), str(tmp_path / "tokens"), [ByteEngine()], listener=listener)
    assert len(listener.failures) >= retries.MAX_ATTEMPTS
    assert _rejects(tmp_path / "tokens") == []
    away.rename(source)
    assert tokenize(str(source), str(tmp_path / "tokens"), [ByteEngine()]).rejects == 0
    assert _rows(tmp_path / "tokens") == 3000


def test_a_folder_whose_disk_is_unmounted_fails_its_shards(tmp_path: Path) -> None:
    """The mount point stays, and is empty."""
    source = dataset_files.folder(tmp_path / "photos", IMAGES)

    def unmount() -> None:
        source.rename(tmp_path / "away")
        source.mkdir()

    with pytest.raises(ShardFailed, match="No such file"):
        tokenize(
            str(source),
            str(tmp_path / "tokens"),
            [ByteEngine()],
            max_rejects="100%",
            listener=After(100, unmount),
        )
    assert _rejects(tmp_path / "tokens") == []


@pytest.mark.parametrize("kind", ["folder", "tars"])
def test_rights_that_are_revoked_fail_the_shards(s3: S3Server, tmp_path: Path, kind: str) -> None:
    s3.allow()
    local = tmp_path / "source"
    if kind == "folder":
        dataset_files.folder(local, IMAGES[:240])
    else:
        for number in range(12):
            dataset_files.tar(local / f"{number:02d}.tar", IMAGES[number * 20 :][:20])
    fs = fsspec.filesystem("s3", **s3.options)
    url = f"s3://{BUCKET}/{kind}"
    fs.put(f"{local}/", f"{BUCKET}/{kind}/", recursive=True)
    listener = After(60, s3.revoke)
    with pytest.raises(ShardFailed, match=r"Forbidden|Access Denied"):
        tokenize(url, str(tmp_path / "tokens"), [ByteEngine()], listener=listener)
    assert _rejects(tmp_path / "tokens") == []
    s3.allow()
    assert tokenize(url, str(tmp_path / "tokens"), [ByteEngine()]).images == 240
    assert _rows(tmp_path / "tokens") == 240


def test_any_exception_of_a_shard_is_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        dataset_files.tar(tmp_path / f"source/{name}.tar", IMAGES[:10])
    read = Shard.samples

    def samples(shard: Shard) -> object:
        if shard.name == "b":
            raise KeyError("bug")
        return read(shard)

    monkeypatch.setattr(Shard, "samples", samples)
    with pytest.raises(ShardFailed, match=r"1 of 3 shards .*b\.tar: KeyError: 'bug'"):
        tokenize(str(tmp_path / "source"), str(tmp_path / "tokens"), [ByteEngine()])
    assert _rows(tmp_path / "tokens") == 20


def test_a_shard_in_which_nothing_could_be_read_fails_by_name_of_the_cause(tmp_path: Path) -> None:
    source = tmp_path / "source"
    dataset_files.parquet(source / "empty.parquet", [(str(n), b"bad") for n in range(20)])
    dataset_files.parquet(source / "full.parquet", IMAGES[:10])
    with pytest.raises(ShardFailed, match=r"empty\.parquet: all 20 images .* 20 of them BAD_IMAGE"):
        tokenize(str(source), str(tmp_path / "tokens"), [ByteEngine()])
    assert len(_rejects(tmp_path / "tokens")) == 20
    assert [path.name for path in (tmp_path / "tokens").glob("*.parquet")] == ["full.parquet"]


def test_a_source_without_an_image_in_its_shards_is_an_error(tmp_path: Path) -> None:
    dataset_files.tar(tmp_path / "source/a.tar", [])
    with pytest.raises(SourceError, match="no images in any of its 1 shards"):
        tokenize(str(tmp_path / "source"), str(tmp_path / "tokens"), [ByteEngine()])


def test_rejects_are_limited_to_a_share_of_each_shard(tmp_path: Path) -> None:
    for name, bad in {"few": 10, "many": 11}.items():
        images = [(key, b"bad") for key, _ in IMAGES[:bad]] + IMAGES[bad:20]
        dataset_files.tar(tmp_path / f"source/{name}.tar", images)
    source, tokens = str(tmp_path / "source"), str(tmp_path / "tokens")
    with pytest.raises(
        ShardFailed, match=r"many\.tar: 11 of 20 images were rejected, and 50% .* 11 of them BAD_IM"
    ):
        tokenize(source, tokens, [ByteEngine()])
    assert _rows(tmp_path / "tokens") == 10
    with pytest.raises(ShardFailed, match="and 40% of a shard are allowed"):
        tokenize(source, str(tmp_path / "t"), [ByteEngine()], max_rejects="40%")
    assert tokenize(source, tokens, [ByteEngine()], max_rejects="55%").rejects == 21
    with pytest.raises(TooManyRejects, match="21 images were rejected, and 20 are allowed"):
        tokenize(source, tokens, [ByteEngine()], max_rejects=20)


@pytest.mark.parametrize("limit", ["", "x", "-1", "101%", "-5%", "1.5", "%"])
def test_limits_that_are_none_are_refused(tmp_path: Path, limit: str) -> None:
    with pytest.raises(ValueError, match="max_rejects is a number"):
        tokenize(str(tmp_path), str(tmp_path / "t"), [ByteEngine()], max_rejects=limit)


def test_rejects_are_tried_again_on_request(tmp_path: Path) -> None:
    dataset_files.tar(tmp_path / "source/good.tar", IMAGES[:10])
    source, tokens = dataset_files.folder(tmp_path / "source", IMAGES[10:20]), tmp_path / "tokens"
    (source / "photo-0011.jpg").write_bytes(b"bad")
    assert tokenize(str(source), str(tokens), [ByteEngine()]).rejects == 1
    dataset_files.folder(source, IMAGES[11:12])
    engine = ByteEngine()
    summary = tokenize(str(source), str(tokens), [engine], retry_rejects=True)
    assert (summary.rejects, summary.images, summary.done_before) == (0, 20, 1)
    assert engine.answers == 10
    assert _rejects(tokens) == []
    entry = json.loads((tokens / ".channeltok/ledger/images-00000.json").read_text())
    assert (entry["rows"], entry["rejects"]) == (10, [])
