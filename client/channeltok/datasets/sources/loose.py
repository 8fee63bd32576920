"""Loose image files, with the files and the metadata rows that belong to them."""

import posixpath
from collections import Counter
from collections.abc import Mapping
from typing import Any

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.columns import SampleColumns
from channeltok.datasets.sources.folder import LooseImage
from channeltok.datasets.sources.metadata import KEY, read_rows
from channeltok.datasets.sources.names import (
    LABEL_COLUMNS,
    UniqueNames,
    escape,
    file_kind,
    partitions,
    split_suffix,
)
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.places import SourceFile
from channeltok.datasets.sources.shard import Skipped

_FILE_NAMES = ("file_name", "filename")  # columns that name the image of a row


class LooseImages:
    """Puts loose images together with what belongs to them."""

    def __init__(self, options: SourceOptions, skipped: Skipped) -> None:
        self._options, self._skipped = options, skipped
        self._rows: dict[str, dict[str, Mapping[str, Any]]] = {}  # folder -> file name -> row
        self._by_key: dict[str, dict[str, Mapping[str, Any]]] = {}  # folder -> key -> row

    def add_metadata(self, file: SourceFile) -> bool:
        """Read a metadata file for the images in its folder and below; whether it is one."""
        folder = posixpath.dirname(file.relative)
        rows: dict[str, Mapping[str, Any]] = {}
        for row in read_rows(file.fs, file.path, None, "", self._skipped):
            name = next((row[column] for column in _FILE_NAMES if column in row), None)
            if name is None:
                return False
            rows[posixpath.normpath(posixpath.join(folder, str(name)))] = self._wanted(row)
        self._rows[folder] = {**self._rows.get(folder, {}), **rows}
        return True

    def add_keyed_metadata(self, file: SourceFile, folder: str) -> None:
        """Read a Parquet file of img2dataset for the images KEY.jpg of a folder."""
        rows = read_rows(file.fs, file.path, self._names(), KEY, self._skipped)
        self._by_key[folder] = {str(row[KEY]): self._wanted(row) for row in rows}

    def images(self, files: list[SourceFile], others: list[SourceFile]) -> list[LooseImage]:
        """The images, with unique keys.

        others: files without an image suffix; those that belong to no image are counted.
        """
        columns = SampleColumns(self._options, Counter())
        bases = {split_suffix(file.relative)[0] for file in files}
        belonging: dict[str, dict[str, tuple[str, int]]] = {}
        for other in others:
            base, suffix = split_suffix(other.relative)
            if base in bases and columns.wants(suffix):
                belonging.setdefault(base, {})[suffix] = other.path, other.size
            else:
                self._skipped[file_kind(suffix)] += 1
        keys, images, used = UniqueNames(), list[LooseImage](), set[str]()
        for file in files:
            base = split_suffix(file.relative)[0]
            row = self._row(file.relative, base)
            used.add(file.relative)
            key = row.get(self._options.key_column or "")
            images.append(
                LooseImage(
                    keys.add(escape(base) if key is None else str(key)),
                    file.relative,
                    file.path,
                    file.size,
                    belonging.get(base, {}),
                    row,
                )
            )
        unused = sum(name not in used for rows in self._rows.values() for name in rows)
        if unused:
            self._skipped["row of metadata without its image"] += unused
        return images

    def _row(self, relative: str, base: str) -> Mapping[str, Any]:
        """The row of the nearest metadata file above an image."""
        folder, key = posixpath.split(base)
        if folder in self._by_key:
            return self._by_key[folder].get(key, {})
        while True:
            if folder in self._rows:
                return self._rows[folder].get(relative, {})
            if not folder:
                return {}
            folder = posixpath.dirname(folder)

    def _names(self) -> list[str]:
        return [*self._options.names(), *LABEL_COLUMNS]

    def _wanted(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: row[name] for name in self._names() if name in row}

    def check(self, images: list[LooseImage]) -> None:
        """Raises SourceError if no image has a file or row that could hold a kept column."""
        if not images or any({"json", "txt"} & image.files.keys() for image in images):
            return
        has = {name for image in images for name in (*image.files, *image.row)}
        has |= {name for image in images for name in partitions(image.relative)}
        if missing := [name for name in self._options.keep if name not in has]:
            raise SourceError(
                f"the loose images have no {', '.join(missing)}: neither files KEY.txt or KEY.json "
                "beside them, nor a column of a metadata.csv, metadata.jsonl or metadata.parquet"
            )
