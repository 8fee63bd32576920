"""Parquet files with a column of images."""

import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.columns import label_of, plain
from channeltok.datasets.sources.names import (
    LABEL_COLUMNS,
    UniqueNames,
    decode_text,
    partitions,
)
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.parquet_schema import class_names, image_column
from channeltok.datasets.sources.sample import Sample, too_large
from channeltok.datasets.sources.shard import Shard

KEY_COLUMNS = ("key", "__key__")
_BATCH = 64  # rows of images in memory at once
_HOW_TO_EMBED = (
    "write the images themselves: dataset.with_format('arrow').map("
    "datasets.table.embed_table_storage, batched=True).with_format(None).to_parquet(...)"
)


class Parquet(Shard):
    """A Parquet file with a column of images: bytes, or the Hugging Face layout {bytes, path}."""

    def __init__(
        self,
        fs: Any,
        name: str,
        path: str,
        size: int,
        identity: str,
        options: SourceOptions,
        folder: str = "",
        row_groups: tuple[int, ...] | None = None,
        first_row: int = 0,
    ) -> None:
        """
        Args:
            folder: relative path of the file, for its Hive partitions.
            row_groups: those of this shard; None for all.
            first_row: number of the first row of them in the file.
        """
        super().__init__(fs, name, path, size, identity, options)
        self._partitions = partitions(folder)
        self._row_groups, self._first_row = row_groups, first_row

    def _samples(self) -> Iterator[Sample]:
        try:
            with self._fs.open(self._path, "rb") as file:
                yield from self._rows(pq.ParquetFile(file))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(f"{self.path}: the Parquet file is damaged: {error}") from error

    def _rows(self, file: pq.ParquetFile) -> Iterator[Sample]:
        reader = _RowReader(self, file.schema_arrow)
        self.class_names = tuple(reader.classes)
        row, images, refusal = self._first_row, 0, ""
        for batch in file.iter_batches(_BATCH, row_groups=self._row_groups, columns=reader.columns):
            for values in _rows_of(batch):
                sample = reader.sample(row, values)
                images, refusal = images + (not sample.refusal), sample.refusal
                yield sample
                row += 1
        if row > self._first_row and not images:
            raise SourceError(f"{self.path}: no image could be read; the last one: {refusal}")


class _RowReader:
    def __init__(self, shard: Parquet, schema: Any) -> None:
        self._shard, self._keys = shard, UniqueNames()
        options, has = shard._options, schema.names
        self._image = image_column(schema, options.image_column, shard.path)
        self._label = options.label_column or _first(LABEL_COLUMNS, [*has, *shard._partitions])
        self._key = options.key_column or _first(KEY_COLUMNS, has)
        self.classes = class_names(schema, self._label)
        all_names = ", ".join([*has, *shard._partitions])
        wanted = [self._image, self._label, self._key, *options.keep]
        for name in wanted:
            if name is not None and name not in has and name not in shard._partitions:
                raise SourceError(f"{shard.path}: no column {name}: it has {all_names}")
        self.columns = [name for name in has if name in wanted]

    def sample(self, row: int, values: dict[str, Any]) -> Sample:
        values = {**self._shard._partitions, **values}
        image, refusal = self._read(values[self._image])
        label, label_id = label_of(values[self._label] if self._label else None, self.classes)
        key = plain(values[self._key]) if self._key else None
        if isinstance(key, bytes):
            key = decode_text(key)
        name = f"{row:08d}" if key is None or key == "" else str(key)
        return Sample(
            f"{self._shard.name}/{self._keys.add(name)}",
            row,
            label,
            image,
            refusal,
            label_id,
            {name: plain(values[name]) for name in self._shard._options.keep},
        )

    def _read(self, value: Any) -> tuple[bytes, str]:
        """The bytes of an image, and why there are none."""
        data, path = (
            (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        )
        if isinstance(data, bytes):
            refusal = too_large(len(data))
            return (b"", refusal) if refusal else (data, "")
        if not isinstance(path, str) or not path:
            return b"", "the row has no image bytes"
        where = posixpath.join(posixpath.dirname(self._shard._path), path)
        if "://" in path or not self._shard._fs.isfile(where):
            return b"", f"the row has no image bytes, and {path} is not there; {_HOW_TO_EMBED}"
        refusal = too_large(self._shard._fs.size(where))
        return (b"", refusal) if refusal else (self._shard._fs.cat_file(where), "")


def _first(names: tuple[str, ...], has: list[str]) -> str | None:
    return next((name for name in names if name in has), None)


def _rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _values(column: Any) -> list[Any]:
    """As Python objects; text that is not UTF-8, which Parquet does not forbid, escaped."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
        binary = column.cast(pa.large_binary()).to_pylist()
        values = [None if item is None else decode_text(item) for item in binary]
    return values
