"""What is packed for a GPU host fits, and what does not fit is refused."""

import re
import tarfile
from pathlib import Path

import pytest

from deploy.gpu import pack


def write(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def test_pack_shards_fills_as_many_parts_as_needed(tmp_path: Path) -> None:
    shards = [write(tmp_path / f"{n}.tar", size) for n, size in enumerate((60, 40, 50, 10))]
    out = tmp_path / "out"
    out.mkdir()
    pack.pack_shards(shards, out, 100)
    parts = {part.name: sorted(file.name for file in part.iterdir()) for part in out.iterdir()}
    assert parts == {"photos-1": ["0.tar", "1.tar"], "photos-2": ["2.tar", "3.tar"]}
    assert pack.too_large(out, 100) == []


def test_pack_shards_refuses_a_shard_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"large.tar has 2.0 MiB: a part has room for 1.0 MiB"):
        pack.pack_shards([write(tmp_path / "large.tar", 2 * pack.MIB)], tmp_path, pack.MIB)


def test_too_large_names_a_part_above_the_limit(tmp_path: Path) -> None:
    write(tmp_path / "base/site/a", 600 * 1024)
    write(tmp_path / "base/b", 600 * 1024)
    write(tmp_path / "graphs/c", 10)
    assert pack.too_large(tmp_path, pack.MIB) == ["base has 1.2 MiB: a part has room for 1.0 MiB"]


def test_pack_exits_when_a_part_is_above_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = tmp_path / "photos.tar"
    with tarfile.open(shard, "w") as tar:
        tar.add(write(tmp_path / "0.jpg", 100), "0.jpg")
    monkeypatch.setattr(pack, "install_site", lambda site, python: write(site / "a", 10))
    monkeypatch.setattr(pack, "tracked", lambda: {"small.py": 10, "weights": 5 * pack.MIB})
    with pytest.raises(SystemExit, match=r"base has \d+.\d MiB: a part has room for 4.0 MiB"):
        pack.main(
            [
                *("--output", str(tmp_path / "pack"), "--limit-mib", "4"),
                *("--train", str(shard), "--validation", str(shard)),
            ]
        )


def test_copy_first_members_copies_the_first_files(tmp_path: Path) -> None:
    shard = tmp_path / "all.tar"
    with tarfile.open(shard, "w") as tar:
        for number in range(4):
            tar.add(write(tmp_path / f"{number}.jpg", number), f"{number}.jpg")
    pack.copy_first_members(shard, 3, tmp_path / "some/first.tar")
    with tarfile.open(tmp_path / "some/first.tar") as tar:
        assert {member.name: member.size for member in tar} == {"0.jpg": 0, "1.jpg": 1, "2.jpg": 2}
    pack.copy_first_members(shard, 9, tmp_path / "whole.tar")
    with tarfile.open(tmp_path / "whole.tar") as tar:
        assert len(tar.getnames()) == 4


def test_pins_has_the_versions_of_packed_packages() -> None:
    pinned = pack.pins()
    for name in (*pack.WITH_DEPENDENCIES, "simplejpeg", "webdataset", "onnxruntime-gpu"):
        assert re.fullmatch(rf"{name}==[\d.]+", pinned[name])


def test_tracked_has_the_sizes_of_tracked_files() -> None:
    files = pack.tracked()
    assert files["pyproject.toml"] < pack.LARGE
    assert files["tokenizer/weights/demo.safetensors"] > pack.LARGE
