"""WebDataset tars."""

import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.columns import SampleColumns, label_of, text_label
from channeltok.datasets.sources.metadata import KEY, read_rows
from channeltok.datasets.sources.names import (
    SUFFIXES,
    UniqueNames,
    decode_text,
    escape,
    file_kind,
    folder_label,
    normalized,
    not_read,
    partitions,
    sample_key,
)
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.sample import Sample, too_large
from channeltok.datasets.sources.shard import Shard, describe_skipped
from channeltok.datasets.sources.tar_links import TarLinks
from channeltok.datasets.sources.tar_parts import END, part_of
from channeltok.datasets.sources.tar_stream import DAMAGE, check_rest, members, open_stream

MAX_SAMPLE_IMAGES = 64  # in memory at once; a sample of more is read in pieces


@dataclass
class _Group:
    """Members of one sample. images: offset, bytes and refusal of each."""

    key: str
    images: list[tuple[int, bytes, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


class Tar(Shard):
    """A WebDataset tar, compressed or not, or a part of one.

    Members with the same path up to the first dot of its last part are one sample.
    """

    def __init__(
        self,
        fs: Any,
        name: str,
        path: str,
        size: int,
        identity: str,
        options: SourceOptions,
        folder: str = "",
        metadata: str | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """
        Args:
            folder: relative path of the tar, for its Hive partitions.
            metadata: path of the Parquet file beside it that img2dataset writes.
            part: (i, n) for the i-th of n parts of the file.
        """
        number, parts = part
        share = size * (number + 1) // parts - size * number // parts
        super().__init__(fs, name, path, share, identity, options)
        self._file_size, self._part, self._metadata = size, part, metadata
        self.partitions = partitions(folder)

    def _samples(self) -> Iterator[Sample]:
        number, parts = self._part
        try:
            start, end = 0, END
            if parts > 1:
                start, end = part_of(self._fs, self._path, self._file_size, number, parts)
                if start == end:
                    return
            with (
                self._fs.open(self._path, "rb") as file,
                closing(TarLinks(self._fs, self._path)) as links,
            ):
                if start:
                    file.seek(start)
                with open_stream(file) as tar:
                    yield from _TarReader(self, tar, links).samples(start, end)
                    if check_rest(tar):
                        self.skipped["bytes after the end of a tar"] += 1
        except DAMAGE as error:
            raise SourceError(f"{self.path}: the tar is damaged: {error}") from error

    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """Rows of the metadata beside the tar, by key."""
        names = self._options.names()
        if self._metadata is None or not names:
            return {}
        rows = read_rows(self._fs, self._metadata, names, KEY, self.skipped)
        return {str(row[KEY]): row for row in rows if KEY in row}


class _TarReader:
    def __init__(self, shard: Tar, tar: tarfile.TarFile, links: TarLinks) -> None:
        self._shard, self._tar, self._links = shard, tar, links
        self._options, self._skipped = shard._options, shard.skipped
        self._columns = SampleColumns(self._options, self._skipped)
        self._rows = shard.rows()
        self._keys = UniqueNames()

    def samples(self, start: int, end: int) -> Iterator[Sample]:
        """The images whose headers are from `start`, where the tar was opened, up to `end`."""
        group, count, offset = _Group(""), 0, start
        for member in members(self._tar):
            offset = start + member.offset
            if offset >= end:
                break
            name = self._name(member)
            if name is None:
                continue
            key, suffix = sample_key(name)
            if key != group.key or len(group.images) == MAX_SAMPLE_IMAGES:
                yield from self._finished(group)
                count += len(group.images)
                group = _Group(key, files={} if key != group.key else group.files)
            self._add(group, member, suffix, offset)
        if end != END and offset != end:
            raise SourceError(
                f"{self._shard.path}: the members before byte {end} do not lead there: the tar is "
                "damaged, or holds tars, which --whole-files reads"
            )
        yield from self._finished(group)
        count += len(group.images)
        if count and (missing := self._columns.missing()):
            raise SourceError(f"{self._shard.path}: {missing}")
        if not count and self._skipped and end - start == END:  # the whole tar
            raise SourceError(
                f"{self._shard.path}: no images in it: it has {describe_skipped(self._skipped)}"
            )

    def _name(self, member: tarfile.TarInfo) -> str | None:
        """The normalised name of a member, or None if it is no part of a sample."""
        if member.isdir():
            return None
        if not (member.isfile() or member.islnk() or member.issym()):
            self._skipped["tar member that is no file"] += 1
            return None
        name = normalized(member.name)
        if kind := not_read(name):
            self._skipped[kind] += 1
            return None
        return name

    def _add(self, group: _Group, member: tarfile.TarInfo, suffix: str, offset: int) -> None:
        kind = suffix.rpartition(".")[2]
        wanted = self._columns.wants(suffix) or suffix == "cls"
        image = self._is_image(suffix, kind)
        if not image and not wanted:
            self._skipped[_kind_of(member, kind)] += 1
            return
        data, refusal = self._content(member)
        if image:
            group.images.append((offset, data, refusal))
        elif refusal:
            self._skipped[f"{file_kind(kind)} that cannot be read"] += 1
        if wanted and not refusal:
            group.files[suffix] = data

    def _is_image(self, suffix: str, kind: str) -> bool:
        column = self._options.image_column
        return (
            kind in SUFFIXES
            and suffix not in self._options.keep
            and (column is None or column.lower() in (suffix, kind))
        )

    def _content(self, member: tarfile.TarInfo) -> tuple[bytes, str]:
        """The bytes of a member, or of what it links to, and why there are none."""
        if member.isfile():
            refusal = too_large(member.size)
            return (b"", refusal) if refusal else (_content(self._tar, member), "")
        size = self._links.size(member)
        if size is None:
            return b"", f"it is a link to {escape(member.linkname)}, which is not in the tar"
        refusal = too_large(size)
        return (b"", refusal) if refusal else (self._links.read(member), "")

    def _finished(self, group: _Group) -> Iterator[Sample]:
        if not group.images:
            if group.files:
                self._skipped["sample without an image"] += 1
            return
        values = self._columns.read(group.files, self._row(group.key))
        label, label_id = self._label(group, values)
        key = escape(group.key)
        if self._options.key_column and values[self._options.key_column] not in (None, ""):
            key = str(values[self._options.key_column])
        columns = {name: values[name] for name in self._options.keep}
        for offset, data, refusal in group.images:
            name = f"{self._shard.name}/{self._keys.add(key)}"
            yield Sample(name, offset, label, data, refusal, label_id, columns)

    def _row(self, key: str) -> Mapping[str, Any]:
        row = self._rows.get(posixpath.basename(key), {})
        return {**self._shard.partitions, **partitions(key), **row}

    def _label(self, group: _Group, values: Mapping[str, Any]) -> tuple[str | None, int | None]:
        if self._options.label_column:
            return text_label(values[self._options.label_column])
        if "cls" in group.files:
            return text_label(decode_text(group.files["cls"]).strip())
        return label_of(folder_label(group.key, self._shard.partitions))


def _kind_of(member: tarfile.TarInfo, suffix: str) -> str:
    if suffix in SUFFIXES:
        return f".{suffix} image of another column"
    return file_kind(suffix) if member.isfile() else "link without an image suffix"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    data = file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data
