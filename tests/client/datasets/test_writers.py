"""Token shards in Parquet and WebDataset tars: columns, types, names and metadata."""

import io
import json
import tarfile
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from channeltok import ImageView, Tokens
from channeltok.datasets.writers import CONTAINERS, Description, Row, parquet, webdataset
from channeltok.datasets.writers.parquet_shard import ROW_GROUP

K = 16
FINGERPRINT = "0123456789abcdef"


def description(*keep: str, **changes: Any) -> Description:
    facts: dict[str, Any] = {"vocab_size": 65536, "max_tokens": 256, "image_size": 128, "k": K}
    return Description("demo", FINGERPRINT, **{**facts, **changes}, keep=keep)


def row(number: int, key: str | None = None, **changes: Any) -> Row:
    ids = np.random.default_rng(number).integers(0, 65536, K)
    tokens = Tokens(ids, FINGERPRINT, view=ImageView(500, 375, 62.5, 0.0, 437.5, 375.0))
    facts: dict[str, Any] = {"label": f"class {number % 3}", **changes}
    return Row(key or f"s/{number:05d}", tokens, "demo", "s.tar", 512 * number, **facts)


def table_of(content: bytes) -> Any:
    return pq.read_table(io.BytesIO(content))


def members_of(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in members.items() if file is not None}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", None, "ü"], pa.string()),
        ([1, None, 2], pa.int64()),
        ([1, 2.5, None], pa.float64()),
        ([True, None, False], pa.bool_()),
        ([b"\x00\xff", None, b""], pa.binary()),
        ([["a", "b"], [], None], pa.list_(pa.string())),
        ([[1], [2, 3], None], pa.list_(pa.int64())),
    ],
)
def test_parquet_keeps_the_types_of_kept_columns(values: list[Any], kind: Any) -> None:
    rows = [row(n, columns={"extra": value}) for n, value in enumerate(values)]
    column = table_of(parquet(rows, description("extra")))["extra"]
    assert column.type == kind
    assert column.to_pylist() == values


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, "one", None], ["1", "one", None]),
        ([{"a": 1}, None, {"b": [2]}], ['{"a": 1}', None, '{"b": [2]}']),
        ([[{"a": 1}], None, None], ['[{"a": 1}]', None, None]),
        ([2**70, 1, None], [str(2**70), "1", None]),
        (["\udc80x", None, None], ["?x", None, None]),
        ([None, None, None], [None, None, None]),
    ],
)
def test_parquet_makes_text_of_values_without_a_common_type(
    values: list[Any], texts: list[Any]
) -> None:
    rows = [row(n, columns={"extra": value}) for n, value in enumerate(values)]
    column = table_of(parquet(rows, description("extra")))["extra"]
    assert column.type == pa.string()
    assert column.to_pylist() == texts


def test_kept_columns_never_replace_ours() -> None:
    rows = [row(1, columns={"width": 9, "source": "web", "kept_source": "x"})]
    keep = ("width", "source", "kept_source")
    for container, write in CONTAINERS.items():
        content = write(rows, description(*keep))
        read: dict[str, Any] = (
            table_of(content).to_pylist()[0]
            if container == "parquet"
            else json.loads(members_of(content)["s/00001.json"])
        )
        assert (read["width"], read["source"]) == (500, "s.tar")
        assert (read["kept_width"], read["kept_source"]) == (9, "web")
        assert read["kept_kept_source"] == "x"


def test_a_column_that_no_row_has_is_still_there() -> None:
    assert table_of(parquet([row(1)], description("caption")))["caption"].to_pylist() == [None]
    assert table_of(parquet([], description("caption"))).column_names[-1] == "caption"


def test_parquet_keeps_class_numbers() -> None:
    table = table_of(parquet([row(1, label_id=7), row(2), row(3, label_id=-1)], description()))
    assert table["label_id"].to_pylist() == [7, None, -1]


def test_parquet_says_how_the_tokens_were_made() -> None:
    content = parquet([row(1)], description("caption", fit="pad", views=2, seed=9))
    stored = json.loads(pq.read_schema(io.BytesIO(content)).metadata[b"channeltok"])
    assert stored == {
        "format": 2,
        "tokenizer": "demo",
        "fingerprint": FINGERPRINT,
        "vocab_size": 65536,
        "max_tokens": 256,
        "image_size": 128,
        "k": K,
        "quality": None,
        "fit": "pad",
        "views": 2,
        "seed": 9,
        "keep": ["caption"],
    }


def test_parquet_names_the_view_of_each_row() -> None:
    rows = [row(1, "a@1", view_number=1), row(1, "a@2", view_number=2, flipped=True)]
    table = table_of(parquet(rows, description(views=2)))
    assert table["view"].to_pylist() == [1, 2]
    assert table["flipped"].to_pylist() == [False, True]
    assert "flipped" not in table_of(parquet([row(1)], description())).column_names


def test_parquet_splits_the_bytes_of_tokens_and_streams_in_row_groups() -> None:
    rows = [row(number) for number in range(ROW_GROUP + 100)]
    content = parquet(rows, description())
    metadata = pq.read_metadata(io.BytesIO(content))
    assert [metadata.row_group(n).num_rows for n in range(2)] == [ROW_GROUP, 100]
    group = metadata.row_group(0)
    columns = {column.path_in_schema: column for column in map(group.column, range(10))}
    assert "BYTE_STREAM_SPLIT" in columns["tokens.list.element"].encodings
    assert columns["tokens.list.element"].total_compressed_size < 2.1 * K * ROW_GROUP
    assert table_of(content)["tokens"].to_pylist() == [row.tokens.ids.tolist() for row in rows]


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_rows_give_the_same_bytes(container: str) -> None:
    write = CONTAINERS[container]
    rows = [row(number, columns={"caption": f"photo {number}"}) for number in range(50)]
    assert write(rows, description("caption")) == write(rows, description("caption"))


def test_duckdb_reads_tokens_kept_columns_and_metadata(tmp_path: Any) -> None:
    rows = [row(number, columns={"caption": f"photo {number}"}) for number in range(5)]
    (tmp_path / "a.parquet").write_bytes(parquet(rows, description("caption")))
    files = f"'{tmp_path}/*.parquet'"
    read = duckdb.sql(f"select tokens, caption, label from {files} order by key").fetchall()
    assert [list(tokens) for tokens, _, _ in read] == [row.tokens.ids.tolist() for row in rows]
    assert [text for _, text, _ in read] == [f"photo {number}" for number in range(5)]
    keys = duckdb.sql(f"select key from parquet_kv_metadata({files})").fetchall()
    assert (b"channeltok",) in keys


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_has_a_sample_for_each_row(tmp_path: Any) -> None:
    import webdataset as wds

    keys = ["a_b", "a.b", "a.b.c", "a_b_c", "x.y/a.b", "x.y/a_b", "dir/", ".a", "a_b-1", "k" * 120]
    rows = [row(n, key, columns={"caption": f"«{n}»"}) for n, key in enumerate(keys)]
    content = webdataset(rows, description("caption"))
    assert len(members_of(content)) == 2 * len(keys)
    (tmp_path / "s.tar").write_bytes(content)
    samples = list(wds.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False))
    stored = [json.loads(sample["json"]) for sample in samples]
    assert [sample["key"] for sample in stored] == keys
    assert [sample["caption"] for sample in stored] == [f"«{n}»" for n in range(len(keys))]
    for sample, expected in zip(samples, rows, strict=True):
        assert Tokens.from_bytes(sample["ctok"]) == expected.tokens
    assert {sample["__key__"] for sample in samples} >= {"a_b", "a_b_c", "x.y/a_b", "a_b-1"}


def test_webdataset_writes_kept_bytes_as_base64() -> None:
    content = webdataset([row(1, columns={"raw": b"\x00\xff"})], description("raw"))
    assert json.loads(members_of(content)["s/00001.json"])["raw"] == "AP8="
