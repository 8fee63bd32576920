"""Token shards as Hugging Face datasets: in memory, and as a folder with a card."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from channeltok.datasets import TokenDataset, tokenize
from channeltok.datasets.hugging_face import to_hf, write_hf_folder
from channeltok.datasets.writers import Description, parquet

from service.engine.in_process import InProcessEngine
from tests.support import token_shards
from tests.support.photographs import crops

NAMES = ["dog", "cat", "ant"]


def write(folder: Path, labels: list[str | None], keep: tuple[str, ...] = ("caption",)) -> Path:
    """Two shards; the second has no caption."""
    rows = [
        token_shards.row(
            f"{folder.name}/{n:03d}",
            16,
            label,
            label_id=None if label is None else NAMES.index(label),
            columns={"caption": f"a {label}" if n < 3 else None},
        )
        for n, label in enumerate(labels)
    ]
    token_shards.shard(folder / "a.parquet", rows[:3], keep)
    token_shards.shard(folder / "b.parquet", rows[3:], keep)
    return folder


@pytest.fixture
def train(tmp_path: Path) -> TokenDataset:
    return TokenDataset(str(write(tmp_path / "train", ["cat", "ant", "dog", None, "cat"])), 8)


def test_to_hf_has_every_row_with_classes_and_captions(train: TokenDataset) -> None:
    found = to_hf(train)
    assert found.features["label"] == datasets.ClassLabel(names=NAMES)
    assert found["label"][:] == [1, 2, 0, None, 1]
    assert found["caption"][:] == ["a cat", "a ant", "a dog", None, None]
    assert found["k"][:] == [8] * 5
    assert found["key"][:] == [f"train/{n:03d}" for n in range(5)]
    assert np.asarray(found.with_format("numpy")["tokens"][:]).shape == (5, 8)
    for row in found:
        expected: Any = token_shards.row(row["key"], 16).tokens.ids[:8].tolist()
        assert row["tokens"] == expected
    assert found.with_format("torch")["tokens"][:].shape == (5, 8)


def test_class_labels_go_there_and_back(engine: InProcessEngine, tmp_path: Path) -> None:
    """A split that has two of the four classes keeps the names and numbers of all."""
    label = datasets.ClassLabel(names=["zebra", "ant", "dog", "cat"])
    features = datasets.Features({"image": datasets.Image(decode=False), "label": label})
    images = [{"bytes": image, "path": None} for image in crops(3)]
    source = datasets.Dataset.from_dict({"image": images, "label": [2, 0, -1]}, features=features)
    source.to_parquet(tmp_path / "test.parquet")
    tokenize(str(tmp_path / "test.parquet"), str(tmp_path / "tokens"), [engine], k=8)
    found = to_hf(TokenDataset(str(tmp_path / "tokens")))
    assert found.features["label"] == label
    assert found["label"][:] == [2, 0, None]


def test_to_hf_keeps_the_lengths_that_a_quality_chose(tmp_path: Path) -> None:
    from dataclasses import replace

    from channeltok.quality import QualityPoint

    rows = []
    for k in (3, 9, 5):
        row = token_shards.row(f"x/{k}", k)
        curve = (QualityPoint(k, 0.5, 20.0),)
        rows.append(replace(row, tokens=replace(row.tokens, curve=curve)))
    content = parquet(rows, Description("demo", token_shards.FINGERPRINT, 65536, 256, 128, None))
    (tmp_path / "a.parquet").write_bytes(content)
    found = to_hf(TokenDataset(str(tmp_path), 6))
    assert [len(tokens) for tokens in found["tokens"]] == found["k"][:] == [3, 6, 5]
    assert "ssim" not in found.features
    assert to_hf(TokenDataset(str(tmp_path)))["ssim"][:] == [0.5] * 3


def test_folder_is_loaded_with_its_splits_classes_and_card(
    train: TokenDataset, tmp_path: Path
) -> None:
    test = TokenDataset(str(write(tmp_path / "test", ["ant", "cat", "ant", "ant"])), 8)
    with pytest.raises(ValueError, match="classes or columns of the split 'test' differ"):
        write_hf_folder({"train": train, "test": test}, tmp_path / "hf")
    test = TokenDataset(str(tmp_path / "test"), 8, classes=train.classes)
    write_hf_folder({"train": train, "test": test}, tmp_path / "hf", license="cc-by-4.0")
    loaded = datasets.load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 5, "test": 4}
    assert loaded["train"].features["label"].names == NAMES
    assert loaded["test"]["label"][:] == [2, 1, 2, 2]
    assert loaded["train"]["tokens"][:] == to_hf(train)["tokens"][:]
    assert loaded["train"]["caption"][:] == to_hf(train)["caption"][:]
    assert set(loaded["train"]["source"]) == {"source"}  # and not /data/me/source
    card = (tmp_path / "hf/README.md").read_text()
    assert card.startswith("---\n")
    for text in ("license: cc-by-4.0", "n<1K", "class_label", "data/train-*", "'0': dog", "5 rows"):
        assert text in card
    assert TokenDataset(str(tmp_path / "hf/data")).description["tokenizer"] == "demo"


def test_folder_is_cut_into_files_of_many_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channeltok.datasets.hugging_face.FILE_ROWS", 40)
    shards = TokenDataset(str(token_shards.dataset(tmp_path / "t", 10, 10)))
    write_hf_folder({"train": shards}, tmp_path / "hf")
    files = sorted(path.name for path in (tmp_path / "hf/data").iterdir())
    assert files == [f"train-{n:05d}-of-00002.parquet" for n in range(2)]
    loaded = datasets.load_dataset(
        str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert loaded["key"][:] == to_hf(shards)["key"][:]


def test_columns_of_other_types_in_other_shards_have_a_common_one(tmp_path: Path) -> None:
    for shard, value in enumerate((1, 2.5, "x", None)):
        row = token_shards.row(f"{shard}", 4, columns={"extra": value})
        token_shards.shard(tmp_path / f"{shard}.parquet", [row], ("extra",))
    assert to_hf(TokenDataset(str(tmp_path)))["extra"][:] == ["1", "2.5", "x", None]
    row = token_shards.row("list", 4, columns={"extra": ["x"]})
    token_shards.shard(tmp_path / "5.parquet", [row], ("extra",))
    with pytest.raises(ValueError, match="'extra' is string in one shard, and list"):
        to_hf(TokenDataset(str(tmp_path)))
