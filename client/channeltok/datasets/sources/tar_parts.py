"""Where a big tar is cut: at the first sample after equal shares of its bytes."""

import sys
from functools import lru_cache
from typing import Any

from channeltok.datasets.sources.names import normalized, not_read, sample_key
from channeltok.datasets.sources.tar_stream import (
    MAGIC_BYTES,
    is_compressed,
    members,
    open_seekable,
)


@lru_cache(maxsize=64)
def cuts(path: str, size: int, parts: int, fs: Any) -> tuple[int, ...]:
    """Offsets of headers, parts + 1 of them; the last is beyond the end of the file.

    Walks the headers up to the last cut, and reads no content. Raises as tarfile does. A compressed
    tar is one part, and the others are empty.
    """
    found, previous = [0], ""
    with fs.open(path, "rb") as file:
        if is_compressed(file.read(MAGIC_BYTES)):
            return (0, *[sys.maxsize] * parts)
        file.seek(0)
        for member in members(open_seekable(file)):
            name = normalized(member.name)
            if member.isdir() or not_read(name):
                continue
            key = sample_key(name)[0]
            while (
                key != previous
                and len(found) < parts
                and member.offset >= size * len(found) // parts
            ):
                found.append(member.offset)
            previous = key
            if len(found) == parts:
                break
    return tuple(found + [sys.maxsize] * (parts + 1 - len(found)))
