"""Parquet files with a column of images."""

import posixpath
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.sample import Sample, too_large
from channeltok.datasets.sources.shard import Shard

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "class", "cls")
KEY_COLUMNS = ("key", "__key__")
_PARQUET_BATCH = 64  # rows of images in memory at once


class Parquet(Shard):
    """A Parquet file with a column of images: bytes, or the Hugging Face layout {bytes, path}."""

    def _samples(self) -> Iterator[Sample]:
        try:
            with self._fs.open(self._path, "rb") as file:
                yield from self._rows(pq.ParquetFile(file))
        except pa.ArrowInvalid as error:
            raise SourceError(f"{self.path}: the Parquet file is damaged: {error}") from error

    def _rows(self, file: pq.ParquetFile) -> Iterator[Sample]:
        names = file.schema_arrow.names
        column = next((name for name in IMAGE_COLUMNS if name in names), None)
        if column is None:
            has, wanted = ", ".join(names), ", ".join(IMAGE_COLUMNS)
            raise SourceError(
                f"{self.path}: no column of images: it has {has}; expected one of {wanted}"
            )
        label = next((name for name in LABEL_COLUMNS if name in names), None)
        key = next((name for name in KEY_COLUMNS if name in names), None)
        row = 0
        for batch in file.iter_batches(
            _PARQUET_BATCH, columns=[name for name in (column, label, key) if name]
        ):
            for values in batch.to_pylist():
                image = values[column]
                if isinstance(image, dict):
                    image = image.get("bytes")
                if isinstance(image, bytes):
                    refusal = too_large(len(image))
                else:
                    refusal = "the row has no image bytes"
                name = values[key] if key else None
                if name is None:
                    name = f"{posixpath.basename(self.name)}/{row:08d}"
                class_name = values[label] if label else None
                yield Sample(
                    str(name),
                    row,
                    None if class_name is None else str(class_name),
                    b"" if refusal else image,
                    refusal,
                )
                row += 1
