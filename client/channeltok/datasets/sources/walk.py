"""List the files of a source."""

import os
from collections.abc import Iterator
from typing import Any

from channeltok.datasets.sources.shard import Skipped

DESTINATION = "destination inside the source"


def is_local(fs: Any) -> bool:
    """Whether it is the file system of this machine."""
    return "file" in fs.protocol


def is_http(fs: Any) -> bool:
    """Whether paths are URLs of a web server, which may have a query."""
    return not {"http", "https"}.isdisjoint(
        [fs.protocol] if isinstance(fs.protocol, str) else fs.protocol
    )


def without_query(fs: Any, path: str) -> str:
    """The path, of a URL without query and fragment."""
    return path.partition("?")[0].partition("#")[0] if is_http(fs) else path


def list_files(fs: Any, path: str, exclude: str | None, skipped: Skipped) -> dict[str, int]:
    """Path -> size of all files in a folder, or of the file itself; empty if nothing is there.

    Linked folders are followed. Folders that begin with . or _ are left out, and so is `exclude`,
    a path. Raises OSError if the folder cannot be listed; a folder in it that cannot is counted.
    """
    if is_local(fs):
        if os.path.isdir(path):
            return dict(_walk(path, exclude, skipped, ()))
        return without(exclude, {path: _size(path)} if os.path.lexists(path) else {}, skipped)
    fs.invalidate_cache()
    if is_http(fs) and (size := size_of_url(fs, path)) is not None:
        return {path: size}
    found = {
        file: int(facts.get("size") or 0)
        for file, facts in fs.find(path, detail=True).items()
        if facts.get("type", "file") == "file" and not file.endswith("/")
    }
    return without(exclude, found, skipped)


def without(exclude: str | None, files: dict[str, int], skipped: Skipped) -> dict[str, int]:
    """The files that do not lie in the folder `exclude`; counts it if some do."""
    rest = {
        file: size
        for file, size in files.items()
        if exclude is None or not file.startswith(f"{exclude}/")
    }
    if len(rest) < len(files):
        skipped[DESTINATION] = 1
    return rest


def _walk(
    folder: str, exclude: str | None, skipped: Skipped, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, int]]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        skipped["link to a folder that it is in"] += 1
        return
    if above and exclude is not None and same_folder(folder, exclude):
        skipped[DESTINATION] = 1
        return
    try:
        with os.scandir(folder) as scan:
            entries = list(scan)
    except PermissionError:
        if not above:
            raise
        skipped["folder that cannot be read"] += 1
        return
    for entry in entries:
        if entry.is_dir():
            if entry.name.startswith((".", "_")):
                skipped["hidden folder"] += 1
            else:
                yield from _walk(entry.path, exclude, skipped, (*above, here))
        elif entry.is_file() or entry.is_symlink():  # a link to nothing fails when it is read
            yield entry.path, _size(entry.path)
        else:
            skipped["file that is no regular file"] += 1


def size_of_url(fs: Any, url: str) -> int | None:
    """Bytes of a file; None for a page, which may list files. fsspec would read it to know."""
    facts = fs.info(url)
    return None if facts.get("mimetype") == "text/html" else int(facts.get("size") or 0)


def same_folder(folder: str, other: str) -> bool:
    """Whether two paths on this machine lead to one folder."""
    return os.path.exists(other) and os.path.samefile(folder, other)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
