"""Folders of loose images, and what lies in them beside images."""

import os
import threading
from pathlib import Path

import fsspec
import pytest
from channeltok.datasets import SourceError
from channeltok.datasets.sources import SourceOptions, find_shards

from tests.client.datasets.sources.support import JPEG, keys, member, read, write_files, write_tar


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", "deep/x.jpg")
    write_tar(tmp_path / "elsewhere/t.tar", [member("y.jpg")])
    source = write_files(tmp_path / "source", "a/z.jpg")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "a/up").symlink_to(source)
    (tmp_path / "elsewhere/self").symlink_to("../elsewhere")
    samples, skipped, _ = read(source)
    assert keys(samples) == ["linked/t/y", "a/z", "linked/deep/x"]
    assert skipped == {"link to a folder that it is in": 2}


def test_unreadable_folders_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_files(tmp_path, "a/x.jpg", "secret/y.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:  # permissions do not stop a superuser
        if os.path.basename(path) == "secret":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    samples, skipped, _ = read(source)
    assert keys(samples) == ["a/x"]
    assert skipped == {"folder that cannot be read": 1}
    with pytest.raises(SourceError, match="Permission denied"):
        find_shards(str(source / "secret"))


def test_files_that_are_not_read_are_counted_by_kind(tmp_path: Path) -> None:
    source = write_files(
        tmp_path,
        "x.JPG",
        "_MG_0001.jpg",
        "x.txt",
        "b.zip",
        "notes",
        ".thumb.jpg",
        ".cache/y.jpg",
        "_temporary/z.jpg",
        "_SUCCESS",
        "Thumbs.db",
    )
    os.mkfifo(source / "pipe.jpg")
    samples, skipped, _ = read(source)
    assert keys(samples) == ["_MG_0001", "x"]
    assert skipped == {
        ".txt file": 1,
        ".zip file": 1,
        ".db file": 1,
        "other file": 1,
        "hidden file": 2,
        "hidden folder": 2,
        "file that is no regular file": 1,
    }


def test_no_images_at_all_say_what_is_there(tmp_path: Path) -> None:
    write_files(tmp_path, "a.zip", "b.zip", ".c.jpg")
    with pytest.raises(SourceError, match=r"no images there.*2 × \.zip file, 1 × hidden file"):
        find_shards(str(tmp_path))


@pytest.mark.parametrize("scheme", ["", "memory://sources"])
def test_the_destination_is_no_source(tmp_path: Path, scheme: str) -> None:
    root = scheme or str(tmp_path)
    fs, path = fsspec.url_to_fs(root)
    fs.makedirs(f"{path}/tokens/deep", exist_ok=True)
    for name in ("x.jpg", "tokens/deep/y.parquet", "tokens/z.tar", "tokens2/w.jpg"):
        fs.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
        fs.pipe_file(f"{path}/{name}", JPEG)
    options = SourceOptions(exclude=f"{root}/tokens")
    try:
        samples, skipped, _ = read(root, options)
        assert keys(samples) == ["tokens2/w", "x"]
        assert skipped == {"destination inside the source": 1}
        if not scheme:
            (tmp_path / "linked").symlink_to(tmp_path / "tokens")
            assert keys(read(root, options)[0]) == ["tokens2/w", "x"]
            pattern = keys(read(f"{root}/*", options)[0])
            assert pattern == ["tokens2/w", "x"]
    finally:
        if scheme:
            fs.rm(path, recursive=True)


def test_file_names_that_come_twice_are_numbered(tmp_path: Path) -> None:
    write_files(tmp_path, "a.png", "a.jpg", "a#1.jpg")
    samples, _, _ = read(tmp_path)
    assert keys(samples) == ["a#1", "a", "a#2"]
    assert not any(sample.refusal for sample in samples)


def test_a_deep_folder_is_listed(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 200)
    write_files(deep, "x.jpg")
    (sample,), _, _ = read(tmp_path)
    assert sample.key == "/".join([*["d"] * 200, "x"])


def test_shards_are_read_by_several_threads(tmp_path: Path) -> None:
    write_files(tmp_path, *(f"{n:03d}.jpg" for n in range(50)))
    (shard,) = find_shards(str(tmp_path)).shards
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(keys(list(shard.samples())))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[f"{n:03d}" for n in range(50)]] * 4
