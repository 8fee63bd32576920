"""Big files, cut into parts that together hold what the whole does."""

import gzip
import io
import pickle
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from channeltok.datasets import SourceError
from channeltok.datasets.sources import Sample, SourceOptions, cut, find_shards

from tests.client.datasets.sources.support import (
    JPEG,
    keys,
    link,
    member,
    read,
    tar_bytes,
    write_tar,
)

WHOLE = SourceOptions(whole_files=True)


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "SPLIT_BYTES", 50_000)
    monkeypatch.setattr(cut, "PART_BYTES", 20_000)


def content_of(samples: list[Sample]) -> list[tuple[str, int, bytes, object]]:
    """All but the name of the shard."""
    return [
        (s.key.rpartition("/")[2], s.offset, s.image or s.refusal.encode(), s.columns)
        for s in samples
    ]


def big_members() -> list[object]:
    members = []
    for number in range(40):
        image = bytes([number]) * (500 + 997 * number % 4000)
        if number % 7 == 3:
            members.append(link(f"{number:02d}.jpg", f"{number - 3:02d}.jpg"))
        else:
            members.append(member(f"{number:02d}.jpg", image))
        members += [member(f"._{number:02d}.txt"), member(f"{number:02d}.txt", b"%d" % number)]
        if number % 5 == 0:
            members.append(member(f"{number:02d}.{'x' * 150}.png", image))
    return members


@pytest.mark.parametrize("suffix", ["tar", "TAR"])
def test_parts_of_a_tar_are_the_whole(tmp_path: Path, suffix: str) -> None:
    path = write_tar(tmp_path / f"big.{suffix}", big_members())  # type: ignore[arg-type]
    options = SourceOptions(keep=("caption",))
    whole, skipped, listing = read(path, SourceOptions(keep=("caption",), whole_files=True))
    assert [shard.name for shard in listing.shards] == ["big"]
    parts, skipped_of_parts, listing = read(path, options)
    n = len(listing.shards)
    assert n > 4
    assert [shard.name for shard in listing.shards] == [f"big-{i:04d}-of-{n:04d}" for i in range(n)]
    assert content_of(parts) == content_of(whole)
    assert skipped_of_parts == skipped
    assert len(set(keys(parts))) == len(parts) == 48
    assert sum(shard.size for shard in listing.shards) == path.stat().st_size
    counts = [len(list(shard.samples())) for shard in listing.shards]
    assert max(counts) < 20
    again = pickle.loads(pickle.dumps(listing.shards[2]))
    assert list(again.samples()) == list(listing.shards[2].samples())


def test_a_member_larger_than_a_part_leaves_parts_empty(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "big.tar", [member("a.jpg"), member("b.jpg", bytes(100_000)), member("c.jpg")]
    )
    samples, _, listing = read(path)
    assert [key.rpartition("/")[2] for key in keys(samples)] == ["a", "b", "c"]
    assert len(listing.shards) == 6


def test_a_second_archive_lies_in_another_part(tmp_path: Path) -> None:
    (tmp_path / "big.tar").write_bytes(
        tar_bytes([member("a.jpg", bytes(40_000))]) + tar_bytes([member("b.jpg", bytes(40_000))])
    )
    samples, _, _ = read(tmp_path)
    assert [key.rpartition("/")[2] for key in keys(samples)] == ["a", "b"]


def test_compressed_tars_stay_whole(tmp_path: Path) -> None:
    noise = bytes(i * i * 31 % 65521 % 256 for i in range(90_000))
    packed = gzip.compress(tar_bytes([member("a.jpg", noise), member("b.jpg", noise[::-1])]), 0)
    for name in ("named.tar", "honest.tar.gz"):
        (tmp_path / name).write_bytes(packed)
    samples, _, listing = read(tmp_path)
    assert [key.rpartition("/")[2] for key in keys(samples)] == ["a", "b", "a", "b"]
    assert listing.shards[0].name == "honest"


def test_parts_of_a_parquet_file_are_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    images = [bytes([n % 251]) * (500 + 997 * n % 4000) for n in range(60)]
    table = pa.table({"image": images, "caption": [f"photo {n}" for n in range(60)]})
    pq.write_table(table, path, row_group_size=5, compression="none", use_dictionary=False)
    whole, _, _ = read(path, SourceOptions(keep=("caption",), whole_files=True))
    parts, _, listing = read(path, SourceOptions(keep=("caption",)))
    assert 3 < len(listing.shards) <= -(-path.stat().st_size // 20_000)
    assert content_of(parts) == content_of(whole)
    assert len(set(keys(parts))) == 60
    assert all(list(shard.samples()) for shard in listing.shards)
    assert sum(shard.size for shard in listing.shards) == pytest.approx(path.stat().st_size, abs=50)


def test_one_row_group_is_one_shard(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    pq.write_table(pa.table({"image": [JPEG * 2000]}), path, compression="none")
    assert [shard.name for shard in read(path)[2].shards] == ["big"]


def test_a_damaged_big_file_is_one_shard_that_fails(tmp_path: Path) -> None:
    (tmp_path / "big.parquet").write_bytes(bytes(60_000))
    (tmp_path / "big.tar").write_bytes(b"x" * 60_000)
    shards = find_shards(str(tmp_path)).shards
    assert [shard.name for shard in shards] == [
        "big-0000-of-0003",
        "big-0001-of-0003",
        "big-0002-of-0003",
        "big.parquet",
    ]
    for shard in (shards[0], shards[3]):
        with pytest.raises(SourceError, match="damaged"):
            list(shard.samples())


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_damage_in_the_middle_fails_a_part(tmp_path: Path, fill: bytes) -> None:
    content = bytearray(tar_bytes([member(f"{n:02d}.jpg", bytes([n]) * 3000) for n in range(40)]))
    at = content.index(b"15.jpg")
    content[at : at + 5000] = fill * 5000
    (tmp_path / "big.tar").write_bytes(content)
    failed = 0
    for shard in find_shards(str(tmp_path)).shards:
        try:
            list(shard.samples())
        except SourceError as error:
            failed += 1
            assert "damaged" in str(error)
    assert failed == 1
    with pytest.raises(SourceError, match="damaged"):
        read(tmp_path, WHOLE)


def test_tars_in_a_big_tar_are_never_taken_for_it(tmp_path: Path) -> None:
    inner = tar_bytes([member(f"inner-{n}.jpg", bytes(1000)) for n in range(70)])
    members = [member(f"{n}.jpg", bytes(1000)) for n in range(9)]
    (tmp_path / "big.tar").write_bytes(tar_bytes([*members, member("x.tar", inner), *members]))
    with pytest.raises(SourceError, match="--whole-files"):
        read(tmp_path)
    samples, skipped, _ = read(tmp_path, WHOLE)
    assert len(samples) == 18
    assert skipped == {".tar file": 1}


@pytest.mark.parametrize("seed", range(12))
def test_parts_of_any_tar_are_the_whole(tmp_path: Path, seed: int) -> None:
    """Long names, whose headers take several blocks, large members and macOS files anywhere."""
    rng = random.Random(seed)
    with tarfile.open(
        tmp_path / "big.tar", "w", format=rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    ) as archive:
        for number in range(80):
            folder = rng.choice(["", "sub/", "./", "é" * 60 + "/"])
            key = f"{folder}{number:03d}{'L' * rng.choice([0, 90, 130])}"
            for suffix in rng.sample(["jpg", "txt", "seg.png", "npy"], rng.randint(1, 4)):
                name = f"{key}.{suffix}"
                if rng.random() < 0.1:
                    name = f"{folder}._{number}.{suffix}"
                size = rng.choice([0, 1, 511, 512, 513, rng.randint(1, 6000), 30_000])
                info, content = member(name, bytes([number]) * size)
                info.mtime = rng.choice([0, 1.5])
                archive.addfile(info, io.BytesIO(content))
    whole, skipped, _ = read(tmp_path, WHOLE)
    parts, skipped_of_parts, listing = read(tmp_path)
    assert len(listing.shards) > 8
    assert content_of(parts) == content_of(whole)
    assert skipped_of_parts == skipped
