"""Runs over sources of which some files are bad: all others are done, and each bad one is named."""

import json
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from channeltok.datasets import ShardFailed, SourceOptions, tokenize
from channeltok.datasets.sources import find_shards

from tests.client.datasets.sources.support import JPEG, member, write_files, write_tar
from tests.support.byte_engine import ByteEngine


def write_parquet(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_bad_shards_fail_alone(tmp_path: Path) -> None:
    source, tokens = tmp_path / "source", tmp_path / "tokens"
    write_parquet(source / "good.parquet", image=[JPEG, b"2"], label=[1, 2])
    write_parquet(source / "other-schema.parquet", image=[JPEG], label=["cat"], more=[None])
    write_parquet(source / "no-images.parquet", text=["x"])
    write_parquet(source / "paths.parquet", image=[{"bytes": None, "path": "/gone.jpg"}])
    (source / "cut.parquet").write_bytes((source / "good.parquet").read_bytes()[:-9])
    (source / "empty.tar").write_bytes(b"")
    (source / "no.tar").write_bytes(b"<html>404</html>" * 99)
    write_tar(source / "npy.tar", [member("x.npy")])
    write_tar(source / "ok.tar", [member(os.fsdecode(b"\xe9/\xff.jpg")), member("x.cls", b"\xff")])
    (source / "cut.tar.gz").write_bytes(b"\x1f\x8b\x08 no more")
    write_files(source, "x.jpg")
    with pytest.raises(ShardFailed, match="7 of 11 shards are not done"):
        tokenize(str(source), str(tokens), [ByteEngine()])
    summary = json.loads((tokens / ".channeltok/summary.json").read_text())
    assert {os.path.basename(path) for path in summary["failed"]} == {
        "no-images.parquet",
        "paths.parquet",
        "cut.parquet",
        "empty.tar",
        "no.tar",
        "npy.tar",
        "cut.tar.gz",
    }
    assert summary["images"] == 5
    assert "embed_table_storage" in summary["failed"][str(source / "paths.parquet")]
    keys = pq.read_table(tokens / "ok.parquet").column("key").to_pylist()
    assert keys == ["ok/%E9/%FF"]


def test_shards_travel_to_other_machines(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", image=[JPEG, b"2"], caption=["a", "b"])
    write_tar(tmp_path / "t.tar", [member("x.jpg"), member("x.txt", b"c")])
    write_files(tmp_path, "x.jpg")
    (tmp_path / "x.txt").write_text("d")
    for shard in find_shards(str(tmp_path), SourceOptions(keep=("caption",))).shards:
        before = list(shard.samples())
        sent = pickle.loads(pickle.dumps(shard))
        assert list(sent.samples()) == before
        assert (sent.name, sent.identity, sent.path) == (shard.name, shard.identity, shard.path)
        assert all(sample.columns["caption"] for sample in before)
