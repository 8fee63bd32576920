"""TokenDataset: rows, batches and classes of token shards."""

import json
import pickle
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from channeltok import Tokens
from channeltok.datasets import Batch, SourceError, TokenDataset
from channeltok.datasets.loader import row_groups
from channeltok.datasets.loader.labels import number_classes

from tests.client.datasets.conftest import KEYS, MEMBERS, K
from tests.support import token_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 shards of one class each, 50 rows."""
    return token_shards.dataset(tmp_path_factory.mktemp("shards"), 20, 50)


def keys_of(batches: Sequence[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.columns["key"]]


def ids_of(key: str, k: int = 8) -> list[int]:
    return token_shards.row(key, k).tokens.ids.tolist()


def test_batches_are_prefixes_in_order(tokenized: Path) -> None:
    dataset = TokenDataset(str(tokenized / "tokens"), k=16)
    assert (len(dataset), dataset.k, dataset.classes) == (30, 16, ["a", "b", "c"])
    batches = list(dataset.batches(8))
    assert [len(batch.tokens) for batch in batches] == [8, 8, 8, 6]
    tokens = np.concatenate([batch.tokens for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    whole = [tokens.ids for _, tokens in TokenDataset(str(tokenized / "tokens")).rows()]
    assert tokens.dtype == labels.dtype == np.int64
    assert np.array_equal(tokens, np.stack(whole)[:, :16])
    assert labels.tolist() == ["abc".index(key[0]) for key in MEMBERS]


def test_rows_have_all_tokens(tokenized: Path) -> None:
    key, tokens = next(TokenDataset(str(tokenized / "tokens")).rows())
    assert key == KEYS[0]
    assert isinstance(tokens, Tokens)
    assert tokens.k == K


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("shuffle_rows", [64, 300, 10**6])
def test_batches_have_what_belongs_to_each_key(
    shards: Path, seed: int | None, shuffle_rows: int
) -> None:
    dataset = TokenDataset(str(shards), columns=["key", "caption"])
    batches = list(dataset.batches(7, seed=seed, shuffle_rows=shuffle_rows))
    keys = keys_of(batches)
    assert len(keys) == len(set(keys)) == 1000
    assert (keys == sorted(keys)) is (seed is None)
    for batch in batches:
        for place, key in enumerate(batch.columns["key"]):
            shard, row = int(key[1:5]), int(key[6:])
            assert batch.tokens[place].tolist() == ids_of(key)
            assert dataset.classes[batch.labels[place]] == f"class {shard}"
            assert batch.columns["caption"][place] == f"photo {row} of {shard}"


def test_batches_of_parts_share_the_rows_in_equal_steps(shards: Path) -> None:
    dataset = TokenDataset(str(shards), columns=["key"])
    parts = [[*dataset.batches(16, seed=5, part=(i, 3))] for i in range(3)]
    assert {len(part) for part in parts} == {21} == {len(dataset.batches(16, part=(0, 3)))}
    keys = [key for part in parts for key in keys_of(part)]
    assert len(keys) == len(set(keys)) == 1000


@pytest.mark.parametrize("step", [0, 1, 13, 29, 42, 62, 63])
def test_batches_continue_in_mid_epoch(shards: Path, step: int) -> None:
    dataset = TokenDataset(str(shards), columns=["key"])
    options: dict[str, Any] = {"seed": 3, "shuffle_rows": 300}
    whole = [batch.columns["key"] for batch in dataset.batches(16, **options)]
    begun = dataset.batches(16, **options)
    for _ in range(step):
        next(begun)
    state = pickle.loads(pickle.dumps(begun.state_dict()))
    resumed = TokenDataset(str(shards), columns=["key"]).batches(16, **options)
    resumed.load_state_dict(state)
    assert [batch.columns["key"] for batch in resumed] == whole[step:]
    resumed.load_state_dict(state)
    assert [batch.columns["key"] for batch in resumed] == whole[step:]


def test_batches_refuse_the_state_of_others(shards: Path) -> None:
    dataset = TokenDataset(str(shards))
    state = dataset.batches(16, seed=3).state_dict()
    for other in (dataset.batches(8, seed=3), dataset.batches(16, seed=4)):
        with pytest.raises(ValueError, match=r"the state was saved with (size|seed) ="):
            other.load_state_dict(state)


def test_batches_refuse_a_dataset_of_other_shards(tmp_path: Path) -> None:
    token_shards.dataset(tmp_path / "a", 2, 10)
    token_shards.dataset(tmp_path / "b", 4, 5)
    a, b = (TokenDataset(str(tmp_path / name)).batches(4, seed=1) for name in "ab")
    with pytest.raises(ValueError, match="row_groups"):
        b.load_state_dict(a.state_dict())


def test_dataset_is_a_map_of_rows(shards: Path) -> None:
    dataset = TokenDataset(str(shards), k=3, columns=["key"])
    row = dataset[51]
    assert (row["key"], row["label"], row["tokens"].dtype) == ("s0001/0001", 1, np.int64)
    assert row["tokens"].tolist() == ids_of("s0001/0001")[:3]
    assert dataset[-1]["key"] == "s0019/0049"
    assert [dataset[place]["key"] for place in (0, 999, 50)] == [
        "s0000/0000",
        "s0019/0049",
        "s0001/0000",
    ]
    for index in (1000, -1001):
        with pytest.raises(IndexError):
            dataset[index]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy[999]["key"] == "s0019/0049"


def test_row_groups_are_kept_up_to_a_limit(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "CACHE_BYTES", 5000)
    dataset = TokenDataset(str(shards), columns=["key"])
    assert len(set(keys_of([*dataset.batches(10, seed=1)]))) == 1000
    assert [row["key"] for row in dataset.__getitems__([0, 400, 999])] == [
        "s0000/0000",
        "s0008/0000",
        "s0019/0049",
    ]


def test_splits_share_the_numbers_of_classes(tmp_path: Path) -> None:
    for split, labels in (("train", "dbca"), ("val", "bx")):
        rows = [token_shards.row(f"{split}/{label}", 4, label) for label in labels]
        token_shards.shard(tmp_path / split / "a.parquet", rows)
    train = TokenDataset(str(tmp_path / "train"))
    val = TokenDataset(str(tmp_path / "val"), classes=train.classes)
    assert train.classes == val.classes == ["a", "b", "c", "d"]
    (batch,) = val.batches(2)
    assert batch.labels.tolist() == [1, -1]


def test_numbers_of_the_source_are_kept(tmp_path: Path) -> None:
    """ClassLabel: dog 0, cat 1, and a class 2 without an image in this split."""
    numbers = {"dog": 0, "cat": 1, "ant": 3, "-1": -1}
    for shard, labels in enumerate((["cat", "ant"], ["dog", "-1"])):
        rows = [token_shards.row(name, 4, name, label_id=numbers[name]) for name in labels]
        token_shards.shard(tmp_path / f"{shard}.parquet", [*rows, token_shards.row("none", 4)])
    dataset = TokenDataset(str(tmp_path))
    assert dataset.classes == ["dog", "cat", "class 2", "ant"]
    (batch,) = dataset.batches(10)
    assert batch.labels.tolist() == [1, 3, -1, 0, -1, -1]


@pytest.mark.parametrize(
    ("pairs", "classes"),
    [
        ([("0", 0), ("10", 10), ("2", 2)], 11),
        ([("a", 0), ("b", None)], ["a", "b"]),
        ([("b", 0), ("b", 1), ("a", 2)], ["a", "b"]),
        ([("b", 1), ("a", 1)], ["a", "b"]),
        ([("b", 5), ("a", 10**12)], ["a", "b"]),
        ([], []),
    ],
)
def test_classes_keep_their_numbers_only_where_these_are_clear(pairs: Any, classes: Any) -> None:
    found = number_classes(pairs)
    assert (len(found) if isinstance(classes, int) else found) == classes


def test_classes_without_an_image_have_their_names(tmp_path: Path) -> None:
    """In a test split without the class in the middle and the last one."""
    names = ["zebra", "ant", "dog", "cat"]
    number = names.index("dog")
    shard = [
        token_shards.row("a", 4, "zebra", label_id=0),
        token_shards.row("b", 4, "dog", label_id=number),
    ]
    token_shards.shard(tmp_path / "a.parquet", shard)
    stored = tmp_path / ".channeltok/classes"
    stored.mkdir(parents=True)
    (stored / "1.json").write_text(json.dumps(names))
    assert TokenDataset(str(tmp_path)).classes == names
    (stored / "2.json").write_text(json.dumps(["other"]))
    assert TokenDataset(str(tmp_path)).classes == ["zebra", "class 1", "dog"]
    (stored / "1.json").unlink()
    assert TokenDataset(str(tmp_path)).classes == ["zebra", "class 1", "dog"]


def test_columns_that_a_shard_lacks_are_none(tmp_path: Path) -> None:
    captioned = token_shards.row("a", 4, columns={"caption": "x"})
    token_shards.shard(tmp_path / "a.parquet", [captioned], keep=("caption",))
    token_shards.shard(tmp_path / "b.parquet", [token_shards.row("b", 4)])
    (batch,) = TokenDataset(str(tmp_path), columns=["caption"]).batches(9)
    assert batch.columns == {"caption": ["x", None]}
    with pytest.raises(ValueError, match=r"'text' cannot be read.*caption"):
        TokenDataset(str(tmp_path), columns=["text"])


def test_shards_of_older_releases_are_read(tmp_path: Path, tokenized: Path) -> None:
    """Without class numbers, metadata and split bytes."""
    for path in sorted((tokenized / "tokens").glob("*.parquet")):
        table = pq.read_table(path).drop_columns(["label_id"]).replace_schema_metadata(None)
        pq.write_table(table, tmp_path / path.name, compression="zstd")
    old, new = (
        TokenDataset(str(path), columns=["key"]) for path in (tmp_path, tokenized / "tokens")
    )
    assert old.description == {}
    assert old.classes == new.classes
    for a, b in zip(old.batches(7, seed=1), new.batches(7, seed=1), strict=True):
        assert (a.columns, a.tokens.tolist()) == (b.columns, b.tokens.tolist())


def test_shards_without_rows_are_read(tmp_path: Path) -> None:
    token_shards.shard(tmp_path / "a.parquet", [])
    empty = TokenDataset(str(tmp_path))
    assert (len(empty), empty.classes, [*empty.batches(4)], [*empty.rows()]) == (0, [], [], [])
    token_shards.shard(tmp_path / "b.parquet", [token_shards.row("x", 4, "a")])
    both = TokenDataset(str(tmp_path), columns=["key"])
    assert (len(both), both.k, both.classes) == (1, 4, ["a"])
    assert keys_of([*both.batches(4)]) == ["x"] == [key for key, _ in both.rows()]


def test_description_says_how_the_tokens_were_made(tokenized: Path) -> None:
    description = TokenDataset(str(tokenized / "tokens")).description
    assert (description["tokenizer"], description["k"], description["fit"]) == ("demo", K, "crop")
    assert (description["vocab_size"], description["image_size"]) == (65536, 128)


def test_dataset_reads_any_file_system(shards: Path) -> None:
    fs = fsspec.filesystem("memory")
    for path in sorted(shards.glob("*.parquet"))[:3]:
        fs.pipe_file(f"/shards/{path.name}", path.read_bytes())
    dataset = TokenDataset("memory://shards", columns=["key"])
    assert len(set(keys_of([*dataset.batches(16, seed=1)]))) == 150
    fs.rm("/shards", recursive=True)


def test_dataset_names_a_damaged_shard(tmp_path: Path, shards: Path) -> None:
    content = (shards / "s0000.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"cut\.parquet.*damaged"):
        TokenDataset(str(tmp_path))
    (tmp_path / "cut.parquet").write_bytes(content[:10] + bytes(500) + content[510:])
    with pytest.raises(SourceError, match=r"cut\.parquet.*damaged"):
        [*TokenDataset(str(tmp_path)).batches(10)]


def test_dataset_refuses_parquet_without_tokens(tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="no token shard: it has the columns image"):
        TokenDataset(str(tmp_path))


@pytest.mark.parametrize("k", [0, -1, 65])
def test_token_dataset_refuses_k_out_of_range(tokenized: Path, k: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        TokenDataset(str(tokenized / "tokens"), k)


def test_token_dataset_refuses_a_folder_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no token shards"):
        TokenDataset(str(tmp_path))
    (tmp_path / "a.tar").touch()
    with pytest.raises(SourceError, match="but tars: the package webdataset"):
        TokenDataset(str(tmp_path))


def test_unfinished_epochs_leave_no_threads(shards: Path) -> None:
    dataset = TokenDataset(str(shards))
    before = threading.active_count()
    batches = dataset.batches(16, seed=1)
    next(batches)
    assert threading.active_count() > before
    del batches
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
