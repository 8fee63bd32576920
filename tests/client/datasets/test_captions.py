"""What came with the images, from the source through token shards into batches."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets as hf  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from channeltok.datasets import (
    DestinationMismatch,
    ShardFailed,
    SourceOptions,
    TokenDataset,
    tokenize,
    verify,
)

from service import in_process
from service.engine.in_process import InProcessEngine
from tests.client.datasets.sources.support import member, write_tar
from tests.support.photographs import crops

CAPTIONS = [
    'A "zebra", striped; it\'s 50%25 off',
    "ein Zebra 🦓\r\nzweite Zeile ",
    "2020",
    "",
    "\u00e9 and e\u0301, \t\u200f",
]
IMAGES = crops(5)
NUMBERS = [2, 0, 1, 0, 2]
NAMES = ["zebra", "ant", "cat"]


def img2dataset(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"key": f"{n:09d}", "caption": CAPTIONS[n], "url": f"http://example.com/{n}?a=b.c"}
        for n in range(5)
    ]
    members = []
    for row, image in zip(rows, IMAGES, strict=True):
        members += [
            member(f"{row['key']}.jpg", image),
            member(f"{row['key']}.json", json.dumps(row).encode()),
            member(f"{row['key']}.txt", row["caption"].encode()),
        ]
    write_tar(folder / "00000.tar", members)
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")


def hugging_face(folder: Path) -> None:
    folder.mkdir()
    features = hf.Features(
        {
            "image": hf.Image(decode=False),
            "caption": hf.Value("string"),
            "label": hf.ClassLabel(names=NAMES),
        }
    )
    images = [{"bytes": image, "path": None} for image in IMAGES]
    data = {"image": images, "caption": CAPTIONS, "label": NUMBERS}
    hf.Dataset.from_dict(data, features=features).to_parquet(folder / "train.parquet")


def image_folder(folder: Path) -> None:
    folder.mkdir()
    for number, image in enumerate(IMAGES):
        (folder / f"{number}.jpg").write_bytes(image)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption"])
        writer.writerows((f"{number}.jpg", caption) for number, caption in enumerate(CAPTIONS))


@pytest.mark.parametrize("write", [img2dataset, hugging_face, image_folder])
def test_captions_arrive_byte_for_byte(
    engine: InProcessEngine, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "source")
    arguments = ["tokenize", str(tmp_path / "source"), str(tmp_path / "tokens"), "-k", "8"]
    assert in_process.main([*arguments, "--keep", "caption"]) == 0
    (shard,) = (tmp_path / "tokens").glob("*.parquet")
    assert pq.read_table(shard)["caption"].to_pylist() == CAPTIONS
    dataset = TokenDataset(str(tmp_path / "tokens"), columns=["caption"])
    (batch,) = dataset.batches(5)
    assert batch.columns["caption"] == CAPTIONS
    if write is hugging_face:
        assert list(dataset.classes) == NAMES
        assert batch.labels.tolist() == NUMBERS
    verified = verify(str(tmp_path / "source"), str(tmp_path / "tokens"), engine)
    assert (verified.images, verified.different, verified.missing) == (5, [], [])


def test_other_columns_are_another_dataset(engine: InProcessEngine, tmp_path: Path) -> None:
    hugging_face(tmp_path / "source")
    source, tokens = str(tmp_path / "source"), str(tmp_path / "tokens")
    options = SourceOptions(keep=("caption",))
    tokenize(source, tokens, [engine], k=8, source_options=options)
    assert tokenize(source, tokens, [engine], k=8, source_options=options).done_before == 1
    with pytest.raises(DestinationMismatch, match=r"keep \['caption'\], not \[\]"):
        tokenize(source, tokens, [engine], k=8)
    with pytest.raises(ShardFailed, match="no column captoin: it has image, caption, label"):
        tokenize(
            source,
            str(tmp_path / "typo"),
            [engine],
            k=8,
            source_options=SourceOptions(keep=("captoin",)),
        )


def test_the_command_names_columns(engine: InProcessEngine, tmp_path: Path) -> None:
    table = {"foto": IMAGES, "art": NAMES + NAMES[:2], "id": list("abcde"), "text": CAPTIONS}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table(table), tmp_path / name / "t.parquet")
    source, tokens = [str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "tokens")
    columns = ["--image-column", "foto", "--label-column", "art", "--key-column", "id"]
    keep = ["--keep", "text,id", "--keep", "art", "--whole-files"]
    assert in_process.main(["tokenize", *source, tokens, "-k", "8", *columns, *keep]) == 0
    rows = pq.read_table(tmp_path / "tokens/a/t.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"a/t/{letter}" for letter in "abcde"]
    assert [row["label"] for row in rows] == NAMES + NAMES[:2]
    assert [(row["text"], row["id"]) for row in rows] == list(zip(CAPTIONS, "abcde", strict=True))
    assert in_process.main(["verify", *source, tokens]) == 0


def test_what_was_passed_by_is_told(
    engine: InProcessEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    write_tar(source / "t.tar", [member("x.jpg", IMAGES[0]), member("x.txt", b"dropped")])
    (source / "more.zip").write_bytes(b"PK")
    tokens = tmp_path / "tokens"
    for _ in range(2):
        assert in_process.main(["tokenize", str(source), str(tokens), "-k", "8"]) == 0
        printed = capsys.readouterr().out
        assert "1 .txt file" in printed
        assert "1 .zip file" in printed
    summary = json.loads((tokens / ".channeltok/summary.json").read_text())
    assert summary["skipped"] == {".txt file": 1, ".zip file": 1}


def test_the_destination_may_lie_in_the_source(engine: InProcessEngine, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(IMAGES[0])
    for number in range(2):
        summary = tokenize(str(tmp_path), str(tmp_path / "tokens"), [engine], k=8)
        assert (summary.images, summary.shards, summary.done_before) == (1, 1, number)


def test_a_caption_that_is_no_utf8_is_escaped(engine: InProcessEngine, tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", [member("x.jpg", IMAGES[0]), member("x.txt", b"caf\xe9")])
    tokenize(
        str(tmp_path / "t.tar"),
        str(tmp_path / "tokens"),
        [engine],
        k=8,
        source_options=SourceOptions(keep=("caption",)),
    )
    content = (tmp_path / "tokens/t.parquet").read_bytes()
    assert pq.read_table(io.BytesIO(content))["caption"].to_pylist() == ["caf%E9"]
