"""Token shards as a dataset of Hugging Face, in memory or as a folder to upload.

    to_hf(TokenDataset("tokens/train"))
    write_hf_folder({"train": train, "test": test}, "tokens-hf/", license="cc-by-4.0")

Needs `datasets` beside the extra `batch`: `pip install datasets`.
"""

import posixpath
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from channeltok.datasets.dataset_card import dataset_card
from channeltok.datasets.loader.labels import NO_LABEL, label_numbers
from channeltok.datasets.loader.row_groups import PADDING, token_matrix
from channeltok.datasets.loader.shards import METADATA_KEY, TokenShards
from channeltok.datasets.token_dataset import TokenDataset

FILE_ROWS = 262_144  # of a file in a folder, more or less
ROW_GROUP = 4096
_QUALITY = ("ssim", "psnr")


def to_hf(dataset: TokenDataset) -> datasets.Dataset:
    """All rows in memory, with the k and the classes of `dataset`, and every column.

    `tokens` is a list of uint16, `label` a ClassLabel, None where a row has no class.

    Raises:
        SourceError: a shard is damaged.
        ValueError: a column has types in two shards that have none in common.
    """
    features = features_of(dataset)
    table = pa.concat_tables(_tables(dataset, features))
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def write_hf_folder(
    splits: Mapping[str, TokenDataset],
    folder: str | PathLike[str],
    *,
    name: str = "Image tokens",
    license: str | None = None,
) -> None:
    """Write Parquet files and a dataset card, as `datasets.load_dataset` and the hub read them.

    Of `source`, the path of each image's shard, only the last part is written.

    Args:
        splits: name of each split, such as "train", and its rows. They must have the same classes:
            make the others with `classes=` of the first.
        folder: is made; existing files of the same names are overwritten.
        name: title of the card.
        license: identifier of the hub, such as "cc-by-4.0"; None for none.

    Raises:
        SourceError, ValueError: see `to_hf`; the classes or the columns of the splits differ.
        OSError: a file cannot be written.
    """
    data = Path(folder) / "data"
    data.mkdir(parents=True, exist_ok=True)
    all_features = {split: features_of(dataset) for split, dataset in splits.items()}
    features = next(iter(all_features.values()))
    for split, other in all_features.items():
        if other != features:
            raise ValueError(
                f"the classes or columns of the split {split!r} differ from those of the first: "
                "pass classes= of the first to TokenDataset"
            )
    sizes = {
        split: (len(dataset), _write_split(split, dataset, features, data))
        for split, dataset in splits.items()
    }
    first = next(iter(splits.values()))
    description = {**first.description}
    if description.get("k"):
        description["k"] = first.k
    card = dataset_card(name, license, features, sizes, description)
    (Path(folder) / "README.md").write_text(card, encoding="utf-8")


def features_of(dataset: TokenDataset) -> datasets.Features:
    """The columns of `to_hf`, with their types. Raises ValueError."""
    shards = dataset.token_shards
    types: dict[str, pa.DataType] = {}
    for path in shards.paths:
        for field in shards.schema(path):
            kind = field.type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            types[field.name] = _common(types.get(field.name, pa.null()), kind, field.name)
    types.pop("label_id", None)  # label has the same numbers
    if dataset.k < max(footer.largest_k for footer in shards.footers):
        for name in _QUALITY:  # of all tokens of a row
            types.pop(name, None)
    schema = pa.schema([*types.items()])
    features = datasets.Features.from_arrow_schema(schema)
    length = dataset.k if pa.types.is_fixed_size_list(types["tokens"]) else -1
    features["tokens"] = datasets.List(datasets.Value("uint16"), length=length)
    features["label"] = datasets.ClassLabel(names=dataset.classes)
    return features


def _common(a: pa.DataType, b: pa.DataType, column: str) -> pa.DataType:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if all(pa.types.is_primitive(kind) or kind == pa.string() for kind in (a, b)):
        return pa.string()
    raise ValueError(f"the column {column!r} is {a} in one shard, and {b} in another")


def _tables(dataset: TokenDataset, features: datasets.Features) -> Iterator[pa.Table]:
    shards = dataset.token_shards
    for path in shards.paths:
        yield _table(dataset, shards, path, features)


def _table(
    dataset: TokenDataset, shards: TokenShards, path: str, features: datasets.Features
) -> pa.Table:
    stored = shards.read(path, shards.footer(path).columns)
    columns = {name: stored[name] for name in stored.column_names if name in features}
    columns["tokens"] = _tokens(stored["tokens"], dataset.k)
    columns["k"] = pc.min_element_wise(stored["k"], pa.scalar(dataset.k, pa.uint16()))
    numbers = label_numbers(stored, pa.array(dataset.classes, pa.string()))
    columns["label"] = pa.array(numbers, mask=numbers == NO_LABEL)
    schema = features.arrow_schema
    missing = {name: pa.nulls(len(stored)) for name in schema.names if name not in columns}
    table = pa.table({**columns, **missing}).select(schema.names)
    return table.cast(schema)


def _tokens(column: Any, k: int) -> Any:
    """The first k ids of each row, without padding."""
    if pa.types.is_fixed_size_list(column.type):
        ids = pa.array(token_matrix(column, k).ravel(), pa.uint16())
        return pa.FixedSizeListArray.from_arrays(ids, k)
    matrix = token_matrix(column, k)
    lengths = (matrix != PADDING).sum(1)
    ids = pa.array(matrix[matrix != PADDING], pa.uint16())
    ends = pa.array([0, *lengths.cumsum().tolist()], pa.int32())
    return pa.ListArray.from_arrays(ends, ids)


def _write_split(
    split: str, dataset: TokenDataset, features: datasets.Features, folder: Path
) -> int:
    """Returns the bytes of the rows in memory."""
    shards, size = dataset.token_shards, 0
    rows = [sum(footer.group_rows) for footer in shards.footers]
    count = max(1, round(sum(rows) / FILE_ROWS))
    files: list[list[str]] = [[] for _ in range(count)]
    before = 0
    for path, number in zip(shards.paths, rows, strict=True):
        files[min(count - 1, before * count // max(1, sum(rows)))].append(path)
        before += number
    files = [paths for paths in files if paths]
    schema = features.arrow_schema
    described = shards.schema(shards.paths[0]).metadata or {}
    if METADATA_KEY in described:
        kept = {METADATA_KEY: described[METADATA_KEY]}
        schema = schema.with_metadata({**schema.metadata, **kept})
    for number, paths in enumerate(files):
        name = f"{split}-{number:05d}-of-{len(files):05d}.parquet"
        strings = [
            field.name for field in schema if field.type == pa.string() and field.name != "key"
        ]
        with pq.ParquetWriter(
            folder / name,
            schema,
            compression="zstd",
            use_dictionary=["label", *strings],
            use_byte_stream_split=["tokens.list.element"],
        ) as writer:
            for path in paths:
                table = _without_folders(_table(dataset, shards, path, features).cast(schema))
                writer.write_table(table, row_group_size=ROW_GROUP)
                size += table.nbytes
    return size


def _without_folders(table: pa.Table) -> pa.Table:
    """A table whose `source` has no paths: they tell about the machine that made it."""
    column = table.column_names.index("source")
    encoded = table["source"].combine_chunks().dictionary_encode()
    names = [posixpath.basename(path.rstrip("/")) for path in encoded.dictionary.to_pylist()]
    values = pa.array(names, pa.string()).take(encoded.indices)
    return table.set_column(column, table.schema.field(column), values)


__all__ = ["features_of", "to_hf", "write_hf_folder"]
