"""Metadata files that lie beside images: metadata.csv, .jsonl or .parquet, as Hugging Face's image
folders have, and the Parquet files of img2dataset.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.columns import plain
from channeltok.datasets.sources.names import decode_text
from channeltok.datasets.sources.shard import Skipped

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
KEY = "key"  # column with the names of images in a Parquet file of img2dataset
_MAX_FIELD = 2**30  # bytes of one value of a CSV file


def read_rows(
    fs: Any, path: str, names: Sequence[str] | None, key: str, skipped: Skipped
) -> Iterator[Mapping[str, Any]]:
    """The rows of a metadata file, with the columns `names` that it has (None for all), and `key`.

    CSV has no types: its values are text. Lines that are no JSON are counted. Raises SourceError if
    the file is damaged otherwise, OSError if it cannot be read.
    """
    try:
        if path.endswith(".parquet"):
            yield from _parquet_rows(fs, path, names, key)
        elif path.endswith(".csv"):
            yield from _csv_rows(fs.cat_file(path))
        else:
            yield from _json_rows(fs.cat_file(path), skipped)
    except (pa.ArrowInvalid, ValueError, csv.Error) as error:
        raise SourceError(f"{path}: the metadata cannot be read: {error}") from error


def _parquet_rows(
    fs: Any, path: str, names: Sequence[str] | None, key: str
) -> Iterator[Mapping[str, Any]]:
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        has = parquet.schema_arrow.names
        columns = [name for name in has if names is None or name in (*names, key)]
        for batch in parquet.iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield {name: plain(value) for name, value in row.items()}


def _json_rows(data: bytes, skipped: Skipped) -> Iterator[Mapping[str, Any]]:
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        else:
            skipped["damaged row of metadata"] += 1


def _csv_rows(data: bytes) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_MAX_FIELD)
    yield from csv.DictReader(io.StringIO(decode_text(data), newline=""))
