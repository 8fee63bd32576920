"""Read images from folders, WebDataset tars and Parquet files, on any fsspec file system.

A source is cut into shards by its layout alone, so every run and machine cuts it the same way: each
tar and each Parquet file is a shard, and loose images make shards of `FOLDER_SHARD_IMAGES` in the
order of their paths.
"""

import hashlib
import posixpath
import tarfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.datasets.errors import SourceError

FOLDER_SHARD_IMAGES = 1000
MAX_IMAGE_BYTES = 16 * 2**20  # a service's default limit; larger files are not read
_READABLE = {"jpg", "jpeg", "jpe", "jfif", "png", "webp"}
# Image formats that no tokenizer reads become rejects with a reason; other files are ignored.
_UNREADABLE = {"avif", "bmp", "gif", "heic", "heif", "ico", "jp2", "jxl"}
_UNREADABLE |= {"pgm", "pnm", "ppm", "psd", "svg", "tga", "tif", "tiff"}
SUFFIXES = _READABLE | _UNREADABLE
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "class", "cls")
KEY_COLUMNS = ("key", "__key__")
_PARQUET_BATCH = 64  # rows of images in memory at once


@dataclass(frozen=True)
class Sample:
    """An image of a shard.

    Attributes:
        key: unique in the shard.
        offset: position in the shard: byte of the header in a tar, row of a Parquet file, or index
            among the files of a folder shard.
        label: its class, if the source has one.
        image: bytes of the image file.
        refusal: why `image` is empty; "" if it is not.
    """

    key: str
    offset: int
    label: str | None
    image: bytes
    refusal: str = ""


class Shard(ABC):
    """A part of a source that becomes one token shard.

    Attributes:
        name: name of the token shard, without suffix.
        path: path or URL, for messages.
        size: bytes.
        identity: changes with the shard's content, as far as a file listing can tell.
    """

    def __init__(self, fs: Any, name: str, path: str, size: int, identity: str) -> None:
        self.name, self.size, self.identity = name, size, identity
        self.path = path if "file" in fs.protocol else fs.unstrip_protocol(path)
        self._fs, self._path = fs, path

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """Yield all images in order. Raises SourceError or OSError if the shard is unreadable."""


class _StrictTarInfo(tarfile.TarInfo):
    """Raises on a truncated or broken header, which tarfile takes for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(
                f"it is cut off or broken at byte {tarfile_.offset} ({error})"
            ) from error


class Tar(Shard):
    """A WebDataset tar, compressed or not.

    Members with the same path up to the first dot are one sample.
    """

    def samples(self) -> Iterator[Sample]:
        try:
            with (
                self._fs.open(self._path, "rb") as file,
                tarfile.open(fileobj=file, mode="r|*", tarinfo=_StrictTarInfo) as tar,
            ):
                yield from self._grouped(tar)
        except (tarfile.TarError, EOFError) as error:
            raise SourceError(f"{self.path}: the tar is damaged: {error}") from error

    def _grouped(self, tar: tarfile.TarFile) -> Iterator[Sample]:
        key, images, label = "", list[tuple[tarfile.TarInfo, bytes]](), ""

        def finished() -> Iterator[Sample]:
            for number, (member, data) in enumerate(images):
                refusal = _too_large(member.size)
                if number:
                    refusal = f"{images[0][0].name} is already the image of this sample"
                name = f"{key}#{number}" if number else key
                yield Sample(
                    name,
                    member.offset,
                    label or posixpath.dirname(key) or None,
                    b"" if refusal else data,
                    refusal,
                )

        for member in tar:
            if not member.isfile():
                continue
            folder, base = posixpath.split(member.name)
            stem, _, suffix = base.partition(".")
            if posixpath.join(folder, stem) != key:
                yield from finished()
                key, images, label = posixpath.join(folder, stem), [], ""
            kind = suffix.rpartition(".")[2].lower()
            if kind in SUFFIXES:
                images.append((member, b"" if _too_large(member.size) else _content(tar, member)))
            elif kind == "cls" and member.size < 1000:
                label = _content(tar, member).decode(errors="replace").strip()
        yield from finished()


class Parquet(Shard):
    """A Parquet file with a column of images: bytes, or the Hugging Face layout {bytes, path}."""

    def samples(self) -> Iterator[Sample]:
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
                    refusal = _too_large(len(image))
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


class Folder(Shard):
    """Loose image files, (key, path, size) each."""

    def __init__(self, fs: Any, root: str, name: str, files: list[tuple[str, str, int]]) -> None:
        listing = "\n".join(f"{key}\t{size}" for key, _, size in files)
        super().__init__(
            fs,
            name,
            root,
            sum(size for *_, size in files),
            hashlib.sha256(listing.encode()).hexdigest()[:16],
        )
        self._files = files

    def samples(self) -> Iterator[Sample]:
        keys: set[str] = set()
        for number, (key, path, size) in enumerate(self._files):
            refusal = _too_large(size)
            if key in keys:
                key, refusal = (
                    posixpath.relpath(path, self._path),
                    f"another image already has the key {key}",
                )
            keys.add(key)
            image = b""
            if not refusal:
                try:
                    image = self._fs.cat_file(path)
                except (FileNotFoundError, PermissionError) as error:
                    refusal = f"the file cannot be read: {error.strerror or error}"
            yield Sample(key, number, posixpath.dirname(key) or None, image, refusal)


def find_shards(source: str) -> list[Shard]:
    """Cut a source into shards, sorted by path.

    Args:
        source: a path, a URL, or a glob of them.

    Raises:
        SourceError: there is nothing to tokenize, or two shards would have one name.
    """
    try:
        fs, root = fsspec.url_to_fs(source)
        pattern = any(character in root for character in "*?[")
        listing = fs.glob(root, detail=True) if pattern else fs.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"{source}: {error}") from error
    if pattern:
        root = posixpath.dirname(root.split("*")[0].split("?")[0].split("[")[0])
    elif list(listing) == [root]:
        root = posixpath.dirname(root)
    if not listing:
        raise SourceError(f"{source}: nothing is there")
    shards, loose = list[Shard](), list[tuple[str, str, int]]()
    for path, facts in sorted(listing.items()):
        relative = posixpath.relpath(path, root) if root else path
        # fsspec calls a link to a file "other"; caches of datasets are full of such links.
        is_file = facts.get("type", "file") == "file" or facts.get("islink", False)
        if not is_file or any(part.startswith((".", "_")) for part in relative.split("/")):
            continue
        size = int(facts.get("size") or 0)
        base, kind = _split_suffix(relative)
        if kind in ("tar", "parquet"):
            shards.append((Tar if kind == "tar" else Parquet)(fs, base, path, size, str(size)))
        elif kind in SUFFIXES:
            loose.append((base, path, size))
    for number, start in enumerate(range(0, len(loose), FOLDER_SHARD_IMAGES)):
        shards.append(
            Folder(fs, root, f"images-{number:05d}", loose[start : start + FOLDER_SHARD_IMAGES])
        )
    if not shards:
        raise SourceError(
            f"{source}: no images there: no .tar, no .parquet and no file with an image suffix"
        )
    name, times = Counter(shard.name for shard in shards).most_common(1)[0]
    if times > 1:
        raise SourceError(
            f"{source}: two token shards would be named {name}: rename one, or tokenize them apart"
        )
    return shards


def _split_suffix(path: str) -> tuple[str, str]:
    base, _, kind = path.rpartition(".")
    if kind in ("gz", "bz2", "xz") and base.endswith(".tar"):
        return base.removesuffix(".tar"), "tar"
    return (base, kind.lower()) if base and "/" not in kind else (path, "")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    data = file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data


def _too_large(size: int) -> str:
    return (
        f"the image has {size:,} bytes; at most {MAX_IMAGE_BYTES:,} are allowed"
        if size > MAX_IMAGE_BYTES
        else ""
    )
