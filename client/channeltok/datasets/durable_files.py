"""Write whole files to a folder on any file system, and say what keeps it from being written.

A local file appears by one rename, after its bytes are on disk; an object by one upload.
"""

import errno
import os
import posixpath
import socket
import threading
import time
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from channeltok.datasets.errors import DestinationError
from channeltok.datasets.retries import backoff, describe

ATTEMPTS = 3  # to write one file, where another may succeed
# No other file can be written, either.
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
# Wrong with this one file; others can be written.
_OF_ONE_FILE = {
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EILSEQ,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EFBIG,
}


class DurableFiles:
    """Files below `root`. Can be pickled.

    internal: a folder in `root` for half-written local files. Once it is made, a root without it is
    a root that went away.
    """

    def __init__(self, fs: Any, root: str, internal: str) -> None:
        self.fs, self._root, self._internal = fs, root, internal
        self._local = isinstance(fs, LocalFileSystem)
        self._writing: set[str] = set()

    @property
    def remote(self) -> bool:
        """Whether each file costs a round trip."""
        return not self._local

    def prepare(self) -> None:
        """Make the folders, and remove half-written files of killed runs on this machine.

        Raises DestinationError.
        """
        if not self._local:
            return
        try:
            os.makedirs(self._internal, exist_ok=True)
        except OSError as error:
            raise write_error(self._internal, error) from error
        for leftover in Path(self._internal).glob(f"writing-{socket.gethostname()}-*"):
            try:
                os.kill(int(leftover.name.split("-")[-2]), 0)
            except ProcessLookupError:
                leftover.unlink(missing_ok=True)
            except PermissionError:
                pass  # another user's process, and alive

    def write(self, path: str, content: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            DestinationError: no file can be written.
            ValueError: this one cannot; others may.
        """
        for attempt in range(ATTEMPTS):
            try:
                if self._local:
                    self._write_local(path, content)
                else:
                    self.fs.makedirs(posixpath.dirname(path), exist_ok=True)
                    self.fs.pipe_file(path, content)
                return
            except DestinationError:
                raise
            except Exception as error:
                where = path if self._local else self.fs.unstrip_protocol(path)
                explained = write_error(where, error)
                last = attempt == ATTEMPTS - 1
                if last or self._local or not isinstance(explained, DestinationError):
                    raise explained from error
            time.sleep(backoff(attempt))

    def abandon(self) -> None:
        """Remove what other threads have half written; they will not finish it."""
        for temporary in list(self._writing):
            Path(temporary).unlink(missing_ok=True)

    def _write_local(self, path: str, content: bytes) -> None:
        if not os.path.isdir(self._internal):
            raise DestinationError(
                f"{self._root}: the destination is gone: {self._internal} was moved or removed, or "
                "its disk is no longer mounted"
            )
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        temporary = os.path.join(self._internal, f"writing-{writer}")
        self._writing.add(temporary)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        finally:
            self._writing.discard(temporary)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # makes the rename durable
        finally:
            os.close(descriptor)


def write_error(where: str, error: Exception) -> Exception:
    """DestinationError if no file can be written, ValueError if only this one cannot."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        return DestinationError(f"{where} cannot be written: {_FULL[number]}")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else describe(error)
    if number in _OF_ONE_FILE or isinstance(error, ValueError):
        return ValueError(f"{where} cannot be written: {reason}")
    return DestinationError(f"{where} cannot be written: {reason}")
