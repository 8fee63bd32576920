"""Sources in an object store."""

from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from channeltok.datasets import SourceError
from channeltok.datasets.sources import SourceOptions, cut, find_shards

from tests.client.datasets.sources.support import JPEG, keys, link, member, read, tar_bytes
from tests.support.s3_server import BUCKET, S3Server, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        del server.options["skip_instance_cache"]
        yield server


def put(s3: S3Server, files: dict[str, bytes]) -> str:
    """Write files to a folder of the bucket that is new; returns its URL."""
    fs = fsspec.filesystem("s3", **s3.options)
    url = f"s3://{BUCKET}/{len(fs.ls(BUCKET)) if fs.exists(BUCKET) else 0:04d}"
    for name, content in files.items():
        fs.pipe_file(f"{url}/{name}", content)
    return url


def test_all_kinds_of_sources_are_read(s3: S3Server) -> None:
    tar = tar_bytes([member("./x.jpg"), member("x.txt", b"one"), link("y.jpg", "x.jpg")])
    url = put(
        s3,
        {
            "a.tar": tar,
            "b.tar.zst": zstandard.compress(tar),
            "deep/z.jpg": JPEG,
            "deep/z.txt": b"two",
            "metadata.csv": b"file_name,url\ndeep/z.jpg,u\n",
            "_SUCCESS": b"",
            "notes.docx": b"",
        },
    )
    samples, skipped, _ = read(url, SourceOptions(keep=("caption",)))
    assert [(s.key, s.image, s.columns["caption"]) for s in samples] == [
        ("a/x", JPEG, "one"),
        ("a/y", JPEG, None),
        ("b/x", JPEG, "one"),
        ("b/y", JPEG, None),
        ("deep/z", JPEG, "two"),
    ]
    assert skipped == {"hidden file": 1, ".docx file": 1, "image without caption": 2}


def test_names_in_braces_take_one_listing(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put(s3, {f"train-{n:03d}.tar": tar_bytes([member("x.jpg")]) for n in range(12)})
    fs = fsspec.filesystem("s3")
    calls = []
    monkeypatch.setattr(fs, "find", lambda *arguments, **_: calls.append(arguments) or {})
    source = f"{url}/train-{{000..009}}.tar"
    assert [shard.name for shard in find_shards(source).shards] == [
        f"train-{n:03d}" for n in range(10)
    ]
    assert not calls
    monkeypatch.undo()
    with pytest.raises(SourceError, match=r"train-012\.tar: nothing is there"):
        find_shards(f"{url}/train-{{000..012}}.tar")
    assert len(find_shards(f"{url}/train-00*.tar").shards) == 10


def test_literal_names_come_first(s3: S3Server) -> None:
    url = put(s3, {"a[1]/x.jpg": JPEG, "a1/no.jpg": JPEG})
    assert keys(read(f"{url}/a[1]")[0]) == ["x"]


def test_big_parquet_files_are_cut(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "SPLIT_BYTES", 50_000)
    monkeypatch.setattr(cut, "PART_BYTES", 25_000)
    buffer = pa.BufferOutputStream()
    table = pa.table({"image": [bytes([n]) * 5000 for n in range(20)]})
    pq.write_table(table, buffer, row_group_size=3, compression="none", use_dictionary=False)
    url = put(s3, {"t.parquet": buffer.getvalue().to_pybytes()})
    samples, _, listing = read(url)
    assert len(listing.shards) > 3
    assert [sample.image[0] for sample in samples] == list(range(20))


def test_big_tars_are_cut(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "SPLIT_BYTES", 50_000)
    monkeypatch.setattr(cut, "PART_BYTES", 25_000)
    members = [member(f"{n:02d}.jpg", bytes([n]) * 3000) for n in range(40)]
    url = put(s3, {"t.tar": tar_bytes([*members, link("40.jpg", "00.jpg")])})
    samples, _, listing = read(url)
    assert len(listing.shards) > 3
    assert [sample.image[0] for sample in samples] == [*range(40), 0]


def test_what_is_refused_or_gone_is_told(s3: S3Server) -> None:
    url = put(s3, {"a.tar": tar_bytes([member("x.jpg")])})
    for gone in (f"{url}/b.tar", "s3://no-such-bucket/x"):
        with pytest.raises(SourceError, match="nothing is there"):
            find_shards(gone)
    s3.revoke()
    try:
        with pytest.raises(SourceError, match=r"(?i)forbidden|denied"):
            find_shards(url)
    finally:
        s3.allow()
