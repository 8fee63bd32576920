"""WebDataset tars."""

import posixpath
import tarfile
from collections.abc import Iterator

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.names import SUFFIXES
from channeltok.datasets.sources.sample import Sample, too_large
from channeltok.datasets.sources.shard import Shard


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

    def _samples(self) -> Iterator[Sample]:
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
                refusal = too_large(member.size)
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
                images.append((member, b"" if too_large(member.size) else _content(tar, member)))
            elif kind == "cls" and member.size < 1000:
                label = _content(tar, member).decode(errors="replace").strip()
        yield from finished()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    data = file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data
