"""Tars of every kind, and all that is in them."""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from channeltok.datasets import SourceError
from channeltok.datasets.sources import SourceOptions
from channeltok.datasets.sources import tar as tars

from tests.client.datasets.sources.support import (
    JPEG,
    keys,
    link,
    member,
    read,
    tar_bytes,
    write_tar,
)

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "TAR": bytes,
    "tgz": gzip.compress,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tbz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstandard.compress,
    "tzst": zstandard.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_tars_of_every_compression_are_read(tmp_path: Path, suffix: str) -> None:
    content = tar_bytes([member("a/x.jpg"), link("a/y.jpg", "a/x.jpg")])
    (tmp_path / f"t.{suffix}").write_bytes(COMPRESSIONS[suffix](content))
    samples, _, _ = read(tmp_path)
    assert [(sample.key, sample.label, sample.image) for sample in samples] == [
        ("t/a/x", "a", JPEG),
        ("t/a/y", "a", JPEG),
    ]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_truncated_tars_are_damaged(tmp_path: Path, suffix: str, share: float) -> None:
    noise = bytes(i * i * 7 % 251 for i in range(5000))
    content = COMPRESSIONS[suffix](tar_bytes([member(f"{n}.jpg", noise) for n in range(9)]))
    (tmp_path / f"t.{suffix}").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceError, match=r"t\.tar.*damaged"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_second_archives_are_read(tmp_path: Path, suffix: str) -> None:
    first, second = tar_bytes([member("a.jpg")]), tar_bytes([member("b.jpg")])
    compress = COMPRESSIONS[suffix]
    (tmp_path / f"one.{suffix}").write_bytes(compress(first + second))
    (tmp_path / f"two.{suffix}").write_bytes(compress(first) + compress(second))
    samples, skipped, _ = read(tmp_path)
    assert keys(samples) == ["one/a", "one/b", "two/a", "two/b"]
    assert skipped == {}


def test_rubbish_after_the_end_is_counted(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(tar_bytes([member("a.jpg")]) + b"rubbish " * 200)
    samples, skipped, _ = read(tmp_path)
    assert keys(samples) == ["t/a"]
    assert skipped == {"bytes after the end of a tar": 1}


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_members_after_rubbish_are_damage(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    """As in a file with holes: a header of zeros looks like the end."""
    content = bytearray(tar_bytes([member(f"{n}.jpg", b"%d" % n * 900) for n in range(9)]))
    at = content.index(b"4.jpg")
    content[at : at + 512] = bytes(512)
    (tmp_path / "t.tar").write_bytes(compress(bytes(content)))
    with pytest.raises(SourceError, match=r"damaged: bytes that are no tar"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_links_lead_to_their_images(tmp_path: Path, suffix: str) -> None:
    content = tar_bytes(
        [
            member("./a/x.jpg", b"x" * 9000),
            member("a/y.jpg", b"y"),
            link("b/hard.jpg", "./a/x.jpg"),
            link("b/soft.jpg", "../a/y.jpg", symbolic=True),
            link("b/twice.jpg", "hard.jpg", symbolic=True),
            link("b/later.jpg", "../z.jpg", symbolic=True),
            link("b/gone.jpg", "/etc/passwd", symbolic=True),
            link("b/loop.jpg", "loop.jpg", symbolic=True),
            link("b/folder", "../a", symbolic=True),
            member("z.jpg", b"z"),
        ]
    )
    (tmp_path / f"t.{suffix}").write_bytes(COMPRESSIONS[suffix](content))
    samples, skipped, _ = read(tmp_path)
    found = {sample.key: sample.image or sample.refusal for sample in samples}
    assert found == {
        "t/a/x": b"x" * 9000,
        "t/a/y": b"y",
        "t/b/hard": b"x" * 9000,
        "t/b/soft": b"y",
        "t/b/twice": b"x" * 9000,
        "t/b/later": b"z",
        "t/b/gone": "it is a link to /etc/passwd, which is not in the tar",
        "t/b/loop": "it is a link to loop.jpg, which is not in the tar",
        "t/z": b"z",
    }
    assert skipped == {"link without an image suffix": 1}


def test_each_image_of_a_sample_is_a_row(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "t.tar",
        [
            member("x.left.jpg", b"l"),
            member("x.right.png", b"r"),
            member("x.cls", b"7"),
            member("x.txt", b"both"),
            member("y.jpg", b"y"),
            member("x.jpg", b"again"),
        ],
    )
    samples, skipped, _ = read(tmp_path)
    assert [(s.key, s.image, s.label, s.label_id) for s in samples] == [
        ("t/x", b"l", "7", 7),
        ("t/x#1", b"r", "7", 7),
        ("t/y", b"y", None, None),
        ("t/x#2", b"again", None, None),
    ]
    assert len({sample.offset for sample in samples}) == 4
    assert skipped == {".txt file": 1}


def test_one_image_of_a_sample_can_be_meant(tmp_path: Path) -> None:
    names = ("x.jpg", "x.seg.png", "x.depth.png", "y.seg.png", "y.jpg")
    write_tar(tmp_path / "t.tar", [member(name, name.encode()) for name in names])

    def images(options: SourceOptions) -> list[bytes]:
        return [sample.image for sample in read(tmp_path, options)[0]]

    assert images(SourceOptions(image_column="jpg")) == [b"x.jpg", b"y.jpg"]
    assert images(SourceOptions(image_column="seg.png")) == [b"x.seg.png", b"y.seg.png"]
    _, skipped, _ = read(tmp_path, SourceOptions(image_column="jpg"))
    assert skipped == {".png image of another column": 3}
    options = SourceOptions(keep=("seg.png",), image_column="jpg")
    (first, _), _, _ = read(tmp_path, options)
    assert (first.image, first.columns) == (b"x.jpg", {"seg.png": b"x.seg.png"})
    with pytest.raises(SourceError, match=r"t\.tar: no images in it: it has 2 × \.jpg image of"):
        read(tmp_path, SourceOptions(image_column="webp"))


def test_a_tar_without_images_fails_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", [member("x.npy"), member("y.npy")])
    with pytest.raises(SourceError, match=r"t\.tar: no images in it: it has 2 × \.npy file"):
        read(tmp_path)
    write_tar(tmp_path / "t.tar", [])
    assert read(tmp_path)[0] == []


def test_a_sample_of_many_images_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "MAX_SAMPLE_IMAGES", 3)
    write_tar(tmp_path / "t.tar", [member(f"2024.{n}.jpg", b"%d" % n) for n in range(8)])
    samples, _, _ = read(tmp_path)
    assert [sample.image for sample in samples] == [b"%d" % n for n in range(8)]
    assert keys(samples) == ["t/2024", *(f"t/2024#{n}" for n in range(1, 8))]


def test_members_that_are_no_samples_are_counted(tmp_path: Path) -> None:
    fifo = tarfile.TarInfo("pipe.jpg")
    fifo.type = tarfile.FIFOTYPE
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    write_tar(
        tmp_path / "t.tar",
        [
            (folder, b""),
            member("._x.jpg"),
            member("a/._x.jpg"),
            member("__MACOSX/a/x.jpg"),
            member("/abs/x.jpg"),
            member(".hidden.jpg"),
            member("a/notes.docx"),
            (fifo, b""),
            member("only.cls", b"3"),
        ],
    )
    samples, skipped, _ = read(tmp_path)
    assert [(sample.key, sample.label) for sample in samples] == [("t/abs/x", "abs")]
    assert skipped == {
        "macOS metadata file": 3,
        "hidden file": 1,
        ".docx file": 1,
        "tar member that is no file": 1,
        "sample without an image": 1,
    }


def test_large_images_are_refused_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channeltok.datasets.sources.sample.MAX_IMAGE_BYTES", 100)
    write_tar(
        tmp_path / "t.tar", [member("a.jpg", b"a" * 101), link("b.jpg", "a.jpg"), member("c.jpg")]
    )
    samples, _, _ = read(tmp_path)
    assert [sample.refusal[:23] for sample in samples] == ["the image has 101 bytes"] * 2 + [""]


def test_shards_are_read_again_from_the_start(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", [member("x.jpg"), member("x.docx")])
    _, _, listing = read(tmp_path)
    (shard,) = listing.shards
    assert keys(list(shard.samples())) == keys(list(shard.samples())) == ["t/x"]
    assert shard.skipped == {".docx file": 1}
