"""Where a big tar is cut: at a sample soon after each of its equal shares of bytes."""

import sys
from functools import lru_cache
from itertools import islice
from typing import Any

from channeltok.datasets.sources.names import normalized, not_read, sample_key
from channeltok.datasets.sources.tar_stream import (
    BLOCK,
    MAGIC_BYTES,
    is_compressed,
    is_header,
    members,
    open_seekable,
)

END = sys.maxsize
_READ_BYTES = 2**20


def part_of(fs: Any, path: str, size: int, number: int, parts: int) -> tuple[int, int]:
    """Offsets of the first header of a part, and of that behind its last one.

    Both are END for a part without samples. A compressed tar is one part. Raises as tarfile does.
    """
    if _is_compressed(fs, path, size):
        return (0, END) if number == 0 else (END, END)
    return (
        _cut(fs, path, size * number // parts, size),
        _cut(fs, path, size * (number + 1) // parts, size),
    )


@lru_cache(maxsize=64)
def _is_compressed(fs: Any, path: str, size: int) -> bool:
    with fs.open(path, "rb") as file:
        return is_compressed(file.read(MAGIC_BYTES))


@lru_cache(maxsize=1024)
def _cut(fs: Any, path: str, near: int, size: int) -> int:
    """The first header of a sample that follows `near`; never before that of a smaller `near`.

    The first header after `near` may lack the long name that stands in a header before it, so it
    is skipped; those after it are known, and where the name of the sample changes is a cut.
    """
    if near in (0, size):
        return 0 if near == 0 else END
    with fs.open(path, "rb") as file:
        first = _find_header(file, -(-near // BLOCK) * BLOCK)
        if first is None:
            return END
        file.seek(first)
        previous = None
        for member in islice(members(open_seekable(_From(file, first))), 1, None):
            name = normalized(member.name)
            if member.isdir() or not_read(name):
                continue
            key = sample_key(name)[0]
            if previous not in (None, key):
                return first + member.offset
            previous = key
    return END


def _find_header(file: Any, offset: int) -> int | None:
    """The offset of the first valid header from `offset`."""
    file.seek(offset)
    while len(data := file.read(_READ_BYTES)) >= BLOCK:
        for place in range(0, len(data) - BLOCK + 1, BLOCK):
            if is_header(data[place : place + BLOCK]):
                return offset + place
        offset += len(data)
    return None


class _From:
    """A file object whose byte 0 is byte `start` of another."""

    def __init__(self, file: Any, start: int) -> None:
        self._file, self._start = file, start

    def tell(self) -> int:
        place: int = self._file.tell() - self._start
        return place

    def seek(self, offset: int) -> None:
        self._file.seek(self._start + offset)

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        return data
