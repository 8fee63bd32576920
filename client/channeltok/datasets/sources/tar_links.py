"""Links inside tars: the content that they lead to, wherever in the archive it is."""

import posixpath
import shutil
import tarfile
import tempfile
from contextlib import ExitStack
from typing import Any

from channeltok.datasets.sources.names import normalized
from channeltok.datasets.sources.tar_stream import (
    decompressed,
    is_plain,
    members,
    open_seekable,
)

_MAX_LINKS = 16  # that lead to links


class TarLinks:
    """Reads members of a tar by name. Its index is made when the first link is met."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path, self._stack = fs, path, ExitStack()
        self._file: Any = None
        self._places: dict[str, tuple[int, int]] = {}  # name -> offset and size of the content
        self._targets: dict[str, str] = {}  # name of a link -> name that it leads to

    def close(self) -> None:
        """Close the file, if one is open."""
        self._stack.close()

    def size(self, link: tarfile.TarInfo) -> int | None:
        """Bytes of what a link leads to; None if that is not in the archive."""
        place = self._place(link)
        return None if place is None else place[1]

    def read(self, link: tarfile.TarInfo) -> bytes:
        """What a link leads to, which must be in the archive."""
        place = self._place(link)
        assert place is not None
        self._file.seek(place[0])
        data: bytes = self._file.read(place[1])
        if len(data) != place[1]:
            raise tarfile.ReadError(f"{link.linkname} ends after {len(data)} of {place[1]} bytes")
        return data

    def _place(self, link: tarfile.TarInfo) -> tuple[int, int] | None:
        if self._file is None:
            self._make_index()
        name = _target(link)
        for _ in range(_MAX_LINKS):
            if name in self._places:
                return self._places[name]
            if name not in self._targets:
                return None
            name = self._targets[name]
        return None

    def _make_index(self) -> None:
        file = self._stack.enter_context(self._fs.open(self._path, "rb"))
        content = decompressed(file)
        if not is_plain(content) or not _rewound(file):
            copy = tempfile.TemporaryFile()  # noqa: SIM115  # it is closed with the rest
            self._stack.callback(copy.close)
            shutil.copyfileobj(content, copy, 2**20)
            copy.seek(0)
            file = copy
        for member in members(open_seekable(file)):
            name = normalized(member.name)
            if member.isfile():
                self._places[name] = member.offset_data, member.size
            elif member.islnk() or member.issym():
                self._targets[name] = _target(member)
        self._file = file


def _rewound(file: Any) -> bool:
    """Whether the file is at its beginning again; some say so only when they are asked to."""
    try:
        file.seek(0)
    except (OSError, ValueError):
        return False
    return True


def _target(link: tarfile.TarInfo) -> str:
    folder = posixpath.dirname(link.name) if link.issym() else ""
    return normalized(posixpath.join(folder, link.linkname))
