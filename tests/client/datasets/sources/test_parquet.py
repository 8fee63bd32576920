"""Parquet files: columns, classes, and images that are elsewhere."""

import json
from pathlib import Path
from typing import Any

import datasets as hf  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from channeltok.datasets import SourceError
from channeltok.datasets.sources import SourceOptions

from tests.client.datasets.sources.support import JPEG, keys, read, write_files


def write(path: Path, columns: dict[str, Any], schema: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema), path)
    return path


def test_class_labels_keep_names_and_numbers(tmp_path: Path) -> None:
    features = hf.Features(
        {
            "image": hf.Image(decode=False),
            "label": hf.ClassLabel(names=["zebra", "ant", "cat"]),
            "fine": hf.ClassLabel(names=["a", "b"]),
        }
    )
    images = [{"bytes": JPEG, "path": f"{n}.jpg"} for n in range(4)]
    data = {"image": images, "label": [2, 0, -1, None], "fine": [0, 1, 0, 1]}
    hf.Dataset.from_dict(data, features=features).to_parquet(tmp_path / "t.parquet")
    samples, _, _ = read(tmp_path, SourceOptions(keep=("fine",)))
    assert [(sample.label, sample.label_id) for sample in samples] == [
        ("cat", 2),
        ("zebra", 0),
        (None, None),
        (None, None),
    ]
    assert [sample.columns for sample in samples] == [{"fine": n} for n in (0, 1, 0, 1)]
    samples, _, _ = read(tmp_path, SourceOptions(label_column="fine"))
    assert [(sample.label, sample.label_id) for sample in samples][:2] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7, None], [("7", 7), (None, None)]),
        ([3.0, 0.5], [("3", 3), ("0.5", None)]),
        ([3.0, float("nan")], [("3", 3), (None, None)]),
        (["cat", ""], [("cat", None), (None, None)]),
        ([b"cat", b"\xe9"], [("cat", None), ("%E9", None)]),
        ([[1, 2], []], [("[1, 2]", None), ("[]", None)]),
        ([{"a": 1}, {"a": None}], [('{"a": 1}', None), ('{"a": null}', None)]),
        (pa.array([2**64 - 1, 1], pa.uint64()), [(str(2**64 - 1), None), ("1", 1)]),
        ([True, False], [("True", None), ("False", None)]),
    ],
)
def test_labels_of_any_type_are_read(tmp_path: Path, values: Any, expected: Any) -> None:
    write(tmp_path / "t.parquet", {"image": [JPEG] * 2, "label": values})
    samples, _, _ = read(tmp_path)
    assert [(sample.label, sample.label_id) for sample in samples] == expected


def test_kept_columns_arrive_as_they_are(tmp_path: Path) -> None:
    import datetime
    import decimal

    values: dict[str, Any] = {
        "caption": ["ein Zebra 🦓\n", None],
        "score": [0.25, -1.0],
        "count": [2**60, 0],
        "ok": [True, None],
        "hash": [b"\0\xff", b""],
        "tags": [["a", "b"], []],
        "boxes": [[[1, 2], [3, 4]], []],
        "meta": [{"w": 1, "who": "é"}, {"w": None, "who": "x"}],
        "when": [datetime.datetime(2024, 2, 29, 12, 30), datetime.datetime(1970, 1, 1)],
        "price": [decimal.Decimal("1.50"), decimal.Decimal("2.25")],
    }
    write(tmp_path / "t.parquet", {"jpg": [JPEG] * 2, **values})
    (first, second), _, _ = read(tmp_path, SourceOptions(keep=tuple(values)))
    assert first.columns == {
        **{name: column[0] for name, column in values.items()},
        "boxes": "[[1, 2], [3, 4]]",
        "meta": '{"w": 1, "who": "é"}',
        "when": "2024-02-29T12:30:00",
        "price": "1.50",
    }
    assert (second.columns["caption"], second.columns["tags"]) == (None, [])


def test_text_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    caption = pa.array([b"caf\xe9 50%E9", b"plain 50%E9"], pa.binary()).cast(
        pa.string(), safe=False
    )
    write(tmp_path / "t.parquet", {"image": [JPEG] * 2, "caption": caption, "key": caption})
    samples, _, _ = read(tmp_path, SourceOptions(keep=("caption",)))
    assert [sample.columns["caption"] for sample in samples] == ["caf%E9 50%25E9", "plain 50%E9"]
    for sample in samples:
        sample.key.encode()


def test_columns_are_named(tmp_path: Path) -> None:
    write(
        tmp_path / "t.parquet",
        {
            "image": ["a", "b"],
            "thumb": [b"t"] * 2,
            "Picture": [JPEG] * 2,
            "id": [5, 5],
            "k": [1, 2],
        },
    )
    options = SourceOptions(image_column="Picture", label_column="k", key_column="id")
    samples, _, _ = read(tmp_path, options)
    assert [(s.key, s.label, s.image) for s in samples] == [
        ("t/5", "1", JPEG),
        ("t/5#1", "2", JPEG),
    ]
    for wrong, message in (
        (SourceOptions(), r"no column of images: it has image, thumb.*--image-column"),
        (SourceOptions(image_column="foto"), "no column foto: it has image"),
        (SourceOptions(image_column="image"), "column image is string: images are"),
        (SourceOptions(image_column="thumb", keep=("captoin",)), "no column captoin: it has image"),
        (SourceOptions(image_column="thumb", key_column="uid"), "no column uid"),
    ):
        with pytest.raises(SourceError, match=message):
            read(tmp_path, wrong)


def test_a_declared_image_column_is_found(tmp_path: Path) -> None:
    features = hf.Features({"mask": hf.Value("binary"), "photo": hf.Image(decode=False)})
    data = {"mask": [b"m"], "photo": [{"bytes": JPEG, "path": None}]}
    hf.Dataset.from_dict(data, features=features).to_parquet(tmp_path / "t.parquet")
    (sample,), _, _ = read(tmp_path)
    assert (sample.key, sample.image) == ("t/00000000", JPEG)


def test_images_without_bytes_are_read_by_path(tmp_path: Path) -> None:
    write_files(tmp_path / "photos", "a.jpg")
    rows = [
        {"bytes": None, "path": "photos/a.jpg"},
        {"bytes": None, "path": str(tmp_path / "photos/a.jpg")},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"own", "path": "gone.jpg"},
    ]
    path = write(tmp_path / "t.parquet", {"image": rows})
    samples, _, _ = read(path)
    assert [sample.image for sample in samples] == [JPEG, JPEG, b"", b"", b"", b"own"]
    assert "gone.jpg is not there" in samples[2].refusal
    assert "embed_table_storage" in samples[2].refusal


def test_a_file_without_any_image_says_how_to_embed(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": f"/nowhere/{n}.jpg"} for n in range(3)]
    write(tmp_path / "t.parquet", {"image": rows})
    with pytest.raises(SourceError, match=r"no image could be read.*embed_table_storage"):
        read(tmp_path)


def test_what_the_message_says_embeds_images(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    dataset = hf.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}).cast_column(
        "image", hf.Image()
    )
    embedded = dataset.with_format("arrow").map(hf.table.embed_table_storage, batched=True)
    embedded.with_format(None).to_parquet(tmp_path / "out/t.parquet")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    (sample,), _, _ = read(tmp_path / "out")
    assert sample.image == content


def test_hive_partitions_are_columns(tmp_path: Path) -> None:
    for label in ("cat", "a%2Fb"):
        write(tmp_path / f"split=train/label={label}/part-0.parquet", {"image": [JPEG]})
    samples, _, _ = read(tmp_path, SourceOptions(keep=("split", "label")))
    assert [(sample.label, sample.columns) for sample in samples] == [
        ("a/b", {"split": "train", "label": "a/b"}),
        ("cat", {"split": "train", "label": "cat"}),
    ]
    assert keys(samples) == [
        "split=train/label=a%2Fb/part-0/00000000",
        "split=train/label=cat/part-0/00000000",
    ]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(SourceError, match=r"t\.parquet.*damaged"):
        read(tmp_path)


def test_metadata_of_others_is_no_obstacle(tmp_path: Path) -> None:
    for number, text in enumerate(("no json", json.dumps({"info": None}), "[1]")):
        schema = pa.schema([("image", pa.binary())], {"huggingface": text})
        write(tmp_path / f"{number}.parquet", {"image": [JPEG]}, schema)
    assert len(read(tmp_path)[0]) == 3
