"""Read loose files ahead of their use, and tell a bad file from a source that went away."""

import errno
import os
from collections.abc import Generator, Iterable
from functools import partial
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from channeltok.datasets.read_ahead import read_ahead
from channeltok.datasets.sources.sample import too_large

LOCAL_FILES_AT_ONCE = 8
REMOTE_FILES_AT_ONCE = 32


def read_files(
    fs: Any, files: Iterable[tuple[str, int]]
) -> Generator[tuple[bytes, str], None, None]:
    """Read files, given as (path, size), several at once.

    Yields:
        Of each file, in order, its bytes and "", or b"" and why this file alone cannot be used.

    Raises:
        OSError: a file is not there any more, or cannot be read for a reason that may be the
            source's: it is not mounted, was moved, or refuses us. Other file systems raise errors
            of their own.
    """
    threads = 1  # not every file system may be used by several
    if isinstance(fs, LocalFileSystem):
        threads = LOCAL_FILES_AT_ONCE
    elif fs.async_impl:
        threads = REMOTE_FILES_AT_ONCE
    return read_ahead(files, partial(_read, fs), threads, weigh=lambda file: file[1])


def _read(fs: Any, file: tuple[str, int]) -> tuple[bytes, str]:
    path, size = file
    if refusal := too_large(size):
        return b"", refusal
    try:
        return fs.cat_file(path), ""
    except OSError as error:
        refusal = _fault_of_the_file(path, error) if isinstance(fs, LocalFileSystem) else ""
        if not refusal:
            raise
        return b"", refusal


def _fault_of_the_file(path: str, error: OSError) -> str:
    """Why this file alone cannot be read; "" if others may be affected."""
    if os.path.islink(path) and error.errno in (errno.ENOENT, errno.ELOOP):
        return "the file cannot be read: the link leads nowhere"
    allowed = os.access(os.path.dirname(path), os.R_OK | os.X_OK)
    if error.errno == errno.EACCES and allowed and not os.access(path, os.R_OK):
        return "the file cannot be read: no permission"
    return ""
