"""Files with secrets: when they change, and a warning where other users may read or change them."""

import stat
from pathlib import Path

import structlog

from service import machine

log = structlog.get_logger()
Stamp = tuple[int, int, int, int]


def stamp(file: Path) -> Stamp:
    """Another value after every change, also one that keeps size and time. Raises OSError.

    Take it before the content: a later change is then noticed.
    """
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def warn_of_other_users(file: Path, *, secret: bool = True) -> None:
    """Log a warning if any user of this machine may change the file or, if secret, read it.

    Not in a container, which has no other users: Kubernetes and Docker give secrets the modes 644
    and 444. Not for the group either, which is how a service reads a file of root. Raises OSError.
    """
    if machine.in_container():
        return
    mode = stat.S_IMODE(file.stat().st_mode)
    can = [
        verb
        for verb, bit in (("read", stat.S_IROTH), ("change", stat.S_IWOTH))
        if mode & bit and (secret or verb == "change")
    ]
    if can and all(folder.stat().st_mode & stat.S_IXOTH for folder in file.resolve().parents):
        log.warning(
            "file_open_to_other_users",
            file=str(file),
            mode=f"{mode:03o}",
            why=f"every user of this machine can {' and '.join(can)} it: chmod o-rw",
        )
