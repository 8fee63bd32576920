"""Members of tars, compressed or not, with an error for all damage."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import zstandard

DAMAGE = (
    tarfile.TarError,
    EOFError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    zstandard.ZstdError,
)
BLOCK = 512
_CHECKSUM = slice(148, 156)  # of a header
MAGIC_BYTES = 6  # that tell how a file is compressed


class TarMember(tarfile.TarInfo):
    """Raises on a truncated or broken header, which tarfile takes for the end of the archive.

    After the end of an archive another may follow (`cat a.tar b.tar`); other bytes there are no
    damage, and end the reading.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "TarMember":
        archive: Any = tarfile_
        ended = getattr(archive, "ended", False)
        try:
            member = super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.ended = True
            raise
        except tarfile.HeaderError as error:
            if ended:
                empty = isinstance(error, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]
                archive.rubbish = not empty
                raise tarfile.EmptyHeaderError("the end") from error  # type: ignore[attr-defined]
            raise tarfile.ReadError(
                f"it is cut off or broken at byte {tarfile_.offset} ({error})"
            ) from error
        archive.ended = False
        return member


def open_stream(file: Any) -> tarfile.TarFile:
    """The tar in a file object that is read from where it is, once and forwards."""
    return tarfile.open(fileobj=decompressed(file), mode="r|", tarinfo=TarMember, ignore_zeros=True)


def open_seekable(file: Any) -> tarfile.TarFile:
    """The uncompressed tar in a file object that can seek."""
    return tarfile.open(fileobj=file, mode="r:", tarinfo=TarMember, ignore_zeros=True)


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are the header of a member."""
    if not block[_CHECKSUM].strip(b" \0").isdigit():
        return False
    try:
        TarMember.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def check_rest(tar: tarfile.TarFile) -> bool:
    """Whether other bytes follow the end of an archive from `open_stream`, after its last member.

    Raises tarfile.ReadError if there is a member among them: then it was no end.
    """
    if not getattr(tar, "rubbish", False):
        return False
    stream: Any = tar.fileobj
    while len(block := stream.read(BLOCK)) == BLOCK:
        if is_header(block):
            raise tarfile.ReadError("bytes that are no tar lie between its members")
    return True


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members, without keeping them in memory as tarfile does."""
    while (member := tar.next()) is not None:
        yield member
        tar.members = []  # type: ignore[attr-defined]


def decompressed(file: Any) -> Any:
    """The content of a file as its first bytes say: gzip, bzip2, xz, Zstandard, or as it is."""
    head = b""
    while len(head) < MAGIC_BYTES and (more := file.read(MAGIC_BYTES - len(head))):
        head += more
    whole: Any = _Rejoined(head, file)
    for magic, opened in _COMPRESSIONS.items():
        if head.startswith(magic):
            return opened(whole)
    return whole


def is_plain(content: Any) -> bool:
    """Whether what `decompressed` returned is the file as it is."""
    return isinstance(content, _Rejoined)


def is_compressed(head: bytes) -> bool:
    """Whether a file with these first bytes is compressed."""
    return head.startswith(tuple(_COMPRESSIONS))


class _Rejoined:
    """A file object whose first bytes were read, from its beginning."""

    def __init__(self, head: bytes, file: Any) -> None:
        self._head, self._file = head, file

    def read(self, size: int = -1) -> bytes:
        if self._head:
            end = len(self._head) if size < 0 else size
            head, self._head = self._head[:end], self._head[end:]
            return head + self._file.read() if size < 0 else head
        data: bytes = self._file.read(size)
        return data


class _Bzip2(bz2.BZ2File):
    """Damage is a plain OSError there, as if the disk had failed."""

    def read(self, size: int | None = -1) -> bytes:
        try:
            return super().read(size)
        except OSError as error:
            if error.errno is None:
                raise EOFError(str(error)) from error
            raise


def _zstandard(file: Any) -> Any:
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


_COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": _Bzip2,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstandard,
}
