"""Loose image files."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.columns import SampleColumns, label_of, text_label
from channeltok.datasets.sources.loose_files import read_files
from channeltok.datasets.sources.names import LABEL_COLUMNS, file_kind, folder_label, partitions
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.sample import Sample
from channeltok.datasets.sources.shard import Shard


@dataclass(frozen=True)
class LooseImage:
    """An image file.

    Attributes:
        key: unique in the source.
        relative: path in the source.
        path: path on its file system.
        size: bytes.
        files: suffix -> path and bytes of a file with the same name, such as its caption.
        row: of a metadata file.
    """

    key: str
    relative: str
    path: str
    size: int
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)


class Folder(Shard):
    """Loose image files, in the order of their paths."""

    def __init__(
        self,
        fs: Any,
        root: str,
        name: str,
        images: Sequence[LooseImage],
        options: SourceOptions,
    ) -> None:
        listing = "\n".join(
            f"{image.key}\t{image.size}" + (f"\t{image.row}" if image.row else "")
            for image in images
        )
        digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
        super().__init__(fs, name, root, sum(image.size for image in images), digest, options)
        self.images = tuple(images)

    def _samples(self) -> Iterator[Sample]:
        columns = SampleColumns(self._options, self.skipped)
        contents = read_files(self._fs, self._files())
        with closing(contents):
            for number, image in enumerate(self.images):
                data, refusal = next(contents)
                files = {suffix: next(contents) for suffix in image.files}
                yield self._sample(number, image, data, refusal, files, columns)
        missing = columns.missing()
        if missing and any(image.files for image in self.images):  # which are read for them
            raise SourceError(f"{self.path}: {missing}")

    def _files(self) -> Iterator[tuple[str, int]]:
        """Path and bytes of each image and of the files that belong to it."""
        for image in self.images:
            yield image.path, image.size
            yield from image.files.values()

    def _sample(
        self,
        number: int,
        image: LooseImage,
        data: bytes,
        refusal: str,
        files: Mapping[str, tuple[bytes, str]],
        columns: SampleColumns,
    ) -> Sample:
        for suffix, (_, fault) in files.items():
            if fault:
                self.skipped[f"{file_kind(suffix)} that cannot be read"] += 1
        values = columns.read(
            {suffix: content for suffix, (content, fault) in files.items() if not fault},
            {**partitions(image.relative), **image.row},
        )
        label, label_id = self._label(image, values)
        kept = {name: values[name] for name in self._options.keep}
        return Sample(image.key, number, label, data, refusal, label_id, kept)

    def _label(self, image: LooseImage, values: Mapping[str, Any]) -> tuple[str | None, int | None]:
        if self._options.label_column:
            return text_label(values[self._options.label_column])
        for name in LABEL_COLUMNS:
            if name in image.row:
                return text_label(image.row[name])
        return label_of(folder_label(image.relative))
