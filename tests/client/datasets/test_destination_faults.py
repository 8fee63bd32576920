"""tokenize: destinations that are full, go away, or cannot hold one of the shards."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from channeltok.datasets import (
    DestinationError,
    ShardFailed,
    SourceError,
    destination,
    detokenize,
    retries,
    tokenize,
)

from tests.support import dataset_files
from tests.support.after_images import After
from tests.support.byte_engine import ByteEngine
from tests.support.s3_server import BUCKET, s3_server

SHARDS = 8


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def source(tmp_path: Path) -> str:
    for shard in range(SHARDS):
        images = [(f"{shard}-{number}", b"%d %d" % (shard, number)) for number in range(1000)]
        dataset_files.tar(tmp_path / f"source/{shard}.tar", images)
    return str(tmp_path / "source")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def _half_written(folder: Path) -> list[Path]:
    return list((folder / ".channeltok").glob("writing-*"))


def test_a_full_disk_ends_the_run_at_once_and_keeps_what_is_done(
    source: str, small_disk: Path, tmp_path: Path
) -> None:
    engine, tokens = ByteEngine(), small_disk / "tokens"
    with pytest.raises(
        DestinationError, match=r"disk is full; [1-7] of 8 shards are done"
    ) as caught:
        tokenize(source, str(tokens), [engine])
    assert str(tokens) in str(caught.value)
    assert _half_written(tokens) == []
    done = sorted(path.stem for path in tokens.glob("*.parquet"))
    assert sum(pq.read_metadata(tokens / f"{name}.parquet").num_rows for name in done) >= 1000
    assert engine.answers <= (len(done) + 3) * 1000, "shards were made again in vain"
    shutil.copytree(tokens, tmp_path / "larger")
    summary = tokenize(source, str(tmp_path / "larger"), [ByteEngine()])
    assert summary.images == 8000
    assert summary.done_before >= 1


def test_a_destination_that_is_moved_away_ends_the_run(source: str, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    listener = After(1500, lambda: tokens.rename(tmp_path / "away"))
    with pytest.raises(DestinationError, match=r"tokens: the destination is gone"):
        tokenize(source, str(tokens), [ByteEngine()], listener=listener)
    assert not tokens.exists()
    (tmp_path / "away").rename(tokens)
    assert tokenize(source, str(tokens), [ByteEngine()]).images == 8000


def test_a_file_in_the_place_of_the_destination_is_named(source: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("notes")
    with pytest.raises((DestinationError, ValueError, OSError), match="tokens"):
        tokenize(source, str(tmp_path / "tokens"), [ByteEngine()])


def test_a_bucket_that_refuses_ends_the_run(source: str) -> None:
    with s3_server() as s3:
        listener = After(1500, s3.revoke)
        with pytest.raises(DestinationError, match=rf"s3://{BUCKET}/tokens/.*(Forbid|Denied)"):
            tokenize(source, f"s3://{BUCKET}/tokens", [ByteEngine()], listener=listener)
        s3.allow()
        assert tokenize(source, f"s3://{BUCKET}/tokens", [ByteEngine()]).images == 8000


def test_a_name_that_the_destination_cannot_hold_fails_one_shard(tmp_path: Path) -> None:
    dataset_files.tar(tmp_path / "source/a.tar", [("x", b"x")])
    # With .parquet instead of .tar it is one byte too long.
    dataset_files.tar(tmp_path / f"source/{'b' * 248}.tar", [("y", b"y")])
    with pytest.raises(ShardFailed, match=r"1 of 2 shards .*cannot be written: File name too long"):
        tokenize(str(tmp_path / "source"), str(tmp_path / "tokens"), [ByteEngine()])
    assert [path.name for path in (tmp_path / "tokens").glob("*.parquet")] == ["a.parquet"]


def test_the_ledger_of_an_object_store_is_read_from_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "INDEXED_ENTRIES", 3)
    for number in range(6):
        dataset_files.tar(tmp_path / f"source/{number}.tar", [(str(number), b"%d" % number)])
    fs = fsspec.filesystem("memory")
    source, tokens = str(tmp_path / "source"), "memory://indexed"
    tokenize(source, tokens, [ByteEngine()], part="1/2")
    tokenize(source, tokens, [ByteEngine()])
    read = list[str]()
    cat = fs.cat_file

    def reading(path: str, *args: object, **options: object) -> bytes:
        read.append(path)
        content: bytes = cat(path, *args, **options)
        return content

    monkeypatch.setattr(type(fs), "cat_file", staticmethod(reading))
    assert tokenize(source, tokens, [ByteEngine()]).done_before == 6
    assert not [path for path in read if "/ledger/" in path]
    entry = "/indexed/.channeltok/ledger/3.json"
    changed = {**json.loads(cat(entry)), "rows": 7}
    fs.pipe_file(entry, json.dumps(changed).encode())
    assert tokenize(source, tokens, [ByteEngine()]).images == 12
    assert [path for path in read if "/ledger/" in path] == [entry]
    fs.pipe_file("/indexed/.channeltok/ledger-index.jsonl.gz", b"damaged")
    assert tokenize(source, tokens, [ByteEngine()]).images == 12
    fs.rm("/indexed", recursive=True)


def test_an_object_store_that_nobody_runs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"key": "x", "secret": "x", "endpoint_url": "http://127.0.0.1:9"}
    options["config_kwargs"] = {"retries": {"max_attempts": 0}}  # type: ignore[assignment]
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    tar = str(dataset_files.tar(tmp_path / "a.tar", [("a", b"a")]))
    with pytest.raises(DestinationError, match=r"s3://bucket/t cannot be read: EndpointConn"):
        tokenize(tar, "s3://bucket/t", [ByteEngine()])
    with pytest.raises(SourceError, match=r"s3://bucket/t cannot be read: EndpointConn"):
        tokenize("s3://bucket/t", str(tmp_path / "tokens"), [ByteEngine()])
    with pytest.raises(SourceError, match=r"s3://bucket/t cannot be read: EndpointConn"):
        detokenize("s3://bucket/t", tmp_path / "photos", ByteEngine())
