"""Captions and other columns, of every layout that people have."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from channeltok.datasets import SourceError
from channeltok.datasets.sources import SourceOptions

from tests.client.datasets.sources.support import JPEG, keys, member, read, write_files, write_tar

CAPTIONS = ['A zebra, "striped"; it\'s 50%25 off', "ein Zebra 🦓\r\nzweite Zeile ", "2020", ""]
CAPTION = SourceOptions(keep=("caption",))


def captions(source: Path, options: SourceOptions = CAPTION) -> list[Any]:
    return [sample.columns["caption"] for sample in read(source, options)[0]]


def img2dataset_row(number: int) -> dict[str, Any]:
    return {
        "url": f"http://example.com/{number}.jpg?w=1",
        "caption": CAPTIONS[number],
        "key": f"{number:09d}",
        "status": "success",
        "width": 100 + number,
        "exif": "{}",
    }


def write_img2dataset(folder: Path, shard: str, text: bool = True) -> None:
    rows = [img2dataset_row(number) for number in range(4)]
    members = []
    for row in rows:
        members.append(member(f"{row['key']}.jpg"))
        if text:
            members.append(member(f"{row['key']}.json", json.dumps(row).encode()))
            members.append(member(f"{row['key']}.txt", row["caption"].encode()))
    write_tar(folder / f"{shard}.tar", members)
    pq.write_table(pa.Table.from_pylist(rows[::-1]), folder / f"{shard}.parquet")
    (folder / f"{shard}_stats.json").write_text("{}")


@pytest.mark.parametrize("text", [True, False])
def test_img2dataset_captions_arrive(tmp_path: Path, text: bool) -> None:
    """From .json, or where the tar has none from the Parquet file beside it."""
    for shard in ("00000", "00001"):
        write_img2dataset(tmp_path, shard, text)
    samples, skipped, listing = read(tmp_path, SourceOptions(keep=("caption", "url", "width")))
    assert [shard.name for shard in listing.shards] == ["00000", "00001"]
    assert [sample.columns for sample in samples[:4]] == [
        {name: img2dataset_row(number)[name] for name in ("caption", "url", "width")}
        for number in range(4)
    ]
    assert keys(samples)[4] == "00001/000000000"
    assert skipped == {".json file": 2}  # the statistics


def test_keep_is_several_names() -> None:
    with pytest.raises(ValueError, match=r"several names, such as \('caption',\)"):
        SourceOptions(keep="caption")  # type: ignore[arg-type]
    assert SourceOptions(keep=["a", "b", "a"]).keep == ("a", "b")  # type: ignore[arg-type]


def test_text_files_of_tars_are_captions(tmp_path: Path) -> None:
    members = []
    for number, caption in enumerate(CAPTIONS):
        members += [member(f"{number}.jpg"), member(f"{number}.txt", caption.encode())]
    write_tar(tmp_path / "t.tar", members)
    assert captions(tmp_path) == CAPTIONS
    samples, _, _ = read(tmp_path, SourceOptions(keep=("text", "txt")))
    assert samples[1].columns == {"text": CAPTIONS[1], "txt": CAPTIONS[1]}


def test_files_and_fields_of_samples_are_columns(tmp_path: Path) -> None:
    fields = {"score": 0.5, "tags": ["a", "b"], "who": {"id": 3}, "lone": "\ud800", "none": None}
    write_tar(
        tmp_path / "t.tar",
        [
            member("x.json", json.dumps(fields).encode()),
            member("x.seg.png", b"mask"),
            member("x.npy", b"\x93NUMPY"),
            member("x.jpg"),
            member("y.jpg"),
            member("y.json", b"{no json"),
        ],
    )
    keep = ("score", "tags", "who", "lone", "none", "npy", "json")
    samples, skipped, _ = read(tmp_path, SourceOptions(keep=keep))
    by_key = {sample.key: sample for sample in samples}
    assert by_key["t/x"].columns == {
        "score": 0.5,
        "tags": ["a", "b"],
        "who": '{"id": 3}',
        "lone": "%ED%A0%80",
        "none": None,
        "npy": b"\x93NUMPY",
        "json": json.dumps(fields),
    }
    assert by_key["t/y"].columns == {**dict.fromkeys(keep), "json": "{no json"}
    assert skipped["damaged .json file"] == 1
    assert skipped["image without score"] == 1


def test_labels_and_keys_of_json_fields(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "t.tar",
        [member("x.jpg"), member("x.json", b'{"species": "ant", "uid": 17}')],
    )
    options = SourceOptions(label_column="species", key_column="uid")
    (sample,), _, _ = read(tmp_path, options)
    assert (sample.key, sample.label, sample.columns) == ("t/17", "ant", {})


def test_a_column_that_nothing_has_fails_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", [member("x.jpg"), member("x.txt", b"a"), member("x.json", b"{}")])
    with pytest.raises(SourceError, match=r"t\.tar: no sample has captoin; they have .*\.txt"):
        read(tmp_path, SourceOptions(keep=("captoin",)))
    write_files(tmp_path / "beside", "x.jpg")
    (tmp_path / "beside/x.json").write_text('{"caption": "c"}')
    with pytest.raises(SourceError, match=r"no sample has captoin; they have caption"):
        read(tmp_path / "beside", SourceOptions(keep=("captoin",)))
    write_files(tmp_path / "loose", "x.jpg")
    with pytest.raises(SourceError, match=r"have no caption: neither files KEY\.txt"):
        read(tmp_path / "loose", CAPTION)
    write_tar(tmp_path / "loose/t.tar", [member("y.jpg"), member("y.txt", b"a")])
    assert captions(tmp_path / "loose") == ["a", None]
    assert read(tmp_path / "loose", CAPTION)[1] == {"image without caption": 1}


def test_text_files_beside_loose_images_are_captions(tmp_path: Path) -> None:
    for number, caption in enumerate(CAPTIONS):
        write_files(tmp_path, f"{number}.jpg")
        (tmp_path / f"{number}.txt").write_bytes(caption.encode())
    (tmp_path / "0.json").write_text('{"caption": "from json", "n": 1}')
    (tmp_path / "readme.txt").write_text("of nothing")
    assert captions(tmp_path) == ["from json", *CAPTIONS[1:]]
    _, skipped, _ = read(tmp_path, CAPTION)
    assert skipped == {".txt file": 1}
    _, skipped, _ = read(tmp_path)
    assert skipped == {".txt file": 5, ".json file": 1}


def write_metadata(folder: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    path = folder / f"metadata.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_of_image_folders_arrives(tmp_path: Path, kind: str) -> None:
    names = ["a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg"]
    write_files(tmp_path, *names, "b/4.jpg")
    rows = [
        {"file_name": name, "caption": caption, "label": number % 2, "other": "x"}
        for number, (name, caption) in enumerate(zip(names, CAPTIONS, strict=True))
    ]
    write_metadata(tmp_path, kind, [*rows, {**rows[0], "file_name": "gone.jpg"}])
    samples, skipped, _ = read(tmp_path, CAPTION)
    assert [sample.columns["caption"] for sample in samples] == [*CAPTIONS, None]
    assert [(sample.label, sample.label_id) for sample in samples] == [
        ("0", 0),
        ("1", 1),
        ("0", 0),
        ("1", 1),
        ("b", None),
    ]
    assert skipped == {"row of metadata without its image": 1, "image without caption": 1}


def test_the_nearest_metadata_counts(tmp_path: Path) -> None:
    write_files(tmp_path, "train/0.jpg", "test/0.jpg")
    write_metadata(tmp_path, "csv", [{"file_name": "train/0.jpg", "caption": "far"}])
    write_metadata(tmp_path / "train", "jsonl", [{"file_name": "0.jpg", "caption": "near"}])
    assert captions(tmp_path) == [None, "near"]


def test_damaged_lines_of_metadata_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, "0.jpg", "1.jpg")
    lines = ['{"file_name": "0.jpg", "caption": "a\u2028b"}', "{broken", "[]", ""]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    samples, skipped, _ = read(tmp_path, CAPTION)
    assert [sample.columns["caption"] for sample in samples] == ["a\u2028b", None]
    assert skipped == {"damaged row of metadata": 2, "image without caption": 1}


def test_other_csv_files_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, "0.jpg")
    write_metadata(tmp_path, "csv", [{"id": "0", "caption": "x"}])
    assert read(tmp_path)[1] == {".csv file": 1}


def test_changed_metadata_changes_the_shard(tmp_path: Path) -> None:
    write_files(tmp_path, "0.jpg")
    found = set()
    for caption in ("one", "two"):
        write_metadata(tmp_path, "csv", [{"file_name": "0.jpg", "caption": caption}])
        found.add(read(tmp_path, CAPTION)[2].shards[0].identity)
        found.add(read(tmp_path)[2].shards[0].identity)
    assert len(found) == 3


def test_img2dataset_files_have_their_parquet_beside_the_folder(tmp_path: Path) -> None:
    rows = [img2dataset_row(number) for number in range(4)]
    write_files(tmp_path, *(f"00000/{row['key']}.jpg" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    assert captions(tmp_path) == CAPTIONS


def test_parquet_beside_a_tar_that_holds_images_is_a_shard(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [member("x.jpg")])
    pq.write_table(pa.table({"image": [JPEG]}), tmp_path / "train.parquet")
    samples, _, _ = read(tmp_path)
    assert keys(samples) == ["train/x", "train.parquet/00000000"]


def test_parquet_beside_a_tar_that_describes_nothing_fails_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [member("x.jpg")])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "train.parquet")
    with pytest.raises(SourceError, match=r"train\.parquet: no column of images"):
        read(tmp_path)


def test_partitions_of_folders_are_columns(tmp_path: Path) -> None:
    write_files(tmp_path, "split=val/label=cat/x.jpg")
    write_tar(tmp_path / "split=val/label=dog/t.tar", [member("x.jpg"), member("sub/y.jpg")])
    samples, _, _ = read(tmp_path, SourceOptions(keep=("split",)))
    assert [(sample.label, dict(sample.columns)) for sample in samples] == [
        ("dog", {"split": "val"}),
        ("dog", {"split": "val"}),
        ("cat", {"split": "val"}),
    ]
