"""Names of files, keys and labels."""

import os
from pathlib import Path

import pytest
from channeltok.datasets.sources.names import (
    UniqueNames,
    decode_text,
    escape,
    folder_label,
    normalized,
    partitions,
    split_suffix,
    unescape,
)

from tests.client.datasets.sources.support import JPEG, keys, member, read, write_files, write_tar


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.tar", ("a/b", "tar")),
        ("a/b.TAR.GZ", ("a/b", "tar")),
        ("b.tgz", ("b", "tar")),
        ("b.tar.zst", ("b", "tar")),
        ("b.TBZ2", ("b", "tar")),
        ("b.JPG", ("b", "jpg")),
        ("b.PARQUET", ("b", "parquet")),
        ("a.b/c", ("a.b/c", "")),
        ("a/.jpg", ("a/.jpg", "")),
        ("b.tar.jpg", ("b.tar", "jpg")),
    ],
)
def test_suffixes_say_what_a_file_is(path: str, expected: tuple[str, str]) -> None:
    assert split_suffix(path) == expected


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", "caf%E9"),
        (b"100%", "100%"),
        (b"50% of %20", "50% of %20"),
        (b"caf%E9", "caf%25E9"),
        (b"%25", "%2525"),
        (b"%\xe9%C3", "%%E9%25C3"),
    ],
)
def test_names_that_are_not_utf8_are_escaped_reversibly(raw: bytes, shown: str) -> None:
    name = os.fsdecode(raw)
    assert escape(name) == shown
    assert unescape(shown) == name


def test_every_byte_survives_escaping() -> None:
    names = {os.fsdecode(bytes([a, b, 0x25, a])) for a in range(1, 256) for b in (0x25, 0x45, 0xE9)}
    assert len({escape(name) for name in names}) == len(names)
    for name in names:
        escape(name).encode()
        assert unescape(escape(name)) == name


def test_text_without_utf8_is_escaped_and_other_text_untouched() -> None:
    assert decode_text(b"\xef\xbb\xbf50%25 off \xf0\x9f\x90\x88") == "50%25 off 🐈"
    assert decode_text(b"caf\xe9") == "caf%E9"


def test_numbers_never_repeat_a_name() -> None:
    names = UniqueNames()
    added = [names.add(name) for name in ("a", "a#1", "a", "a", "a#1", "b")]
    assert added == ["a", "a#1", "a#2", "a#3", "a#1#1", "b"]


@pytest.mark.parametrize(
    ("name", "clean"),
    [("./a/b.jpg", "a/b.jpg"), ("/data/b.jpg", "data/b.jpg"), ("../../b.jpg", "b.jpg")],
)
def test_member_names_are_relative(name: str, clean: str) -> None:
    assert normalized(name) == clean


def test_partitions_say_labels() -> None:
    assert partitions("split=train/label=a%20b/x.jpg") == {"split": "train", "label": "a b"}
    assert folder_label("split=train/label=a%20b/x.jpg") == "a b"
    assert folder_label("animals/cat/split=train/x.jpg") == "cat"
    assert folder_label("label=__HIVE_DEFAULT_PARTITION__/x.jpg") is None
    assert folder_label("x.jpg") is None


def test_bad_names_end_nothing(tmp_path: Path) -> None:
    source = os.fsencode(tmp_path / "source")
    os.makedirs(os.path.join(source, b"gr\xfcn"))
    for name in (b"gr\xfcn/caf\xe9.jpg", b"gr\xfcn/new\nline.jpg", b"plain.jpg"):
        with open(os.path.join(source, name), "wb") as file:
            file.write(JPEG)
    write_tar(tmp_path / "t.tar", [member(os.fsdecode(b"gr\xfcn/x\xe9.jpg"))])
    os.rename(tmp_path / "t.tar", os.path.join(source, b"t\xe4r.tar"))
    samples, _, listing = read(tmp_path / "source")
    assert keys(samples) == [
        "t%E4r/gr%FCn/x%E9",
        "gr%FCn/caf%E9",
        "gr%FCn/new\nline",
        "plain",
    ]
    assert [sample.label for sample in samples] == ["gr%FCn", "gr%FCn", "gr%FCn", None]
    for shard in listing.shards:
        (shard.name + shard.path).encode()


def test_keys_are_unique_over_all_shards(tmp_path: Path) -> None:
    for name in ("a", "a/b", "c/a"):
        write_tar(tmp_path / f"{name}.tar", [member("b/x.jpg"), member("x.jpg"), member("x.jpg")])
    write_files(tmp_path, "a/b/x.jpg", "a/b/x.png", "a/x.jpg", "x.jpg")
    samples, _, listing = read(tmp_path)
    assert len(set(keys(samples))) == len(samples) == 13
    assert [shard.name for shard in listing.shards] == [
        "a.tar",
        "a/b.tar",
        "c/a",
        "images-00000",
    ]
    assert keys(samples)[:3] == ["a.tar/b/x", "a.tar/x", "a.tar/x#1"]
    assert keys(samples)[-4:] == ["a/b/x", "a/b/x#1", "a/x", "x"]


def test_shards_of_one_name_keep_their_suffix(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [member("x.jpg")])
    write_tar(tmp_path / "train.TAR.gz", [member("x.jpg")])
    write_tar(tmp_path / "images-00000.tar", [member("x.jpg")])
    write_files(tmp_path, "x.jpg")
    samples, _, listing = read(tmp_path)
    assert len(set(keys(samples))) == 4
    assert [shard.name for shard in listing.shards] == [
        "images-00000",
        "train",
        "train.tar",
        "images-00000#1",
    ]
