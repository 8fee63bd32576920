"""What a source names: literally, by braces, or by a pattern."""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
from braceexpand import braceexpand

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.shard import Skipped
from channeltok.datasets.sources.walk import is_local, list_files, without


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    Attributes:
        fs: its file system.
        path: its path there.
        relative: its path in the source, without the query of a URL.
        size: bytes.
    """

    fs: Any
    path: str
    relative: str
    size: int


@dataclass(frozen=True)
class _Place:
    fs: Any
    root: str  # the folder that names are relative to
    files: dict[str, int]  # path -> bytes


def find_files(
    source: str | os.PathLike[str] | Sequence[str], exclude: str | None, skipped: Skipped
) -> tuple[list[SourceFile], str]:
    """All files of a source, sorted by their relative paths, and the folder they are in.

    Raises SourceError if there are none, or they cannot be listed.
    """
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    places = [place for item in items for place in _places(os.fspath(item), exclude, skipped)]
    file_systems = list({id(place.fs): place.fs for place in places}.values())
    roots = {
        id(fs): _common([place.root for place in places if place.fs is fs]) for fs in file_systems
    }
    files: dict[tuple[int, str], SourceFile] = {}
    for place in places:
        for path, size in place.files.items():
            if (id(place.fs), path) in files:
                skipped["file that is named twice"] += 1
                continue
            relative = _relative(place.fs, path, roots[id(place.fs)])
            if len(file_systems) > 1:
                relative = re.sub(":/+", "/", place.fs.unstrip_protocol(path))
            files[id(place.fs), path] = SourceFile(place.fs, path, relative, size)
    ordered = sorted(files.values(), key=lambda file: (file.relative, file.path))
    return ordered, roots[id(file_systems[0])] if file_systems else ""


def _places(item: str, exclude: str | None, skipped: Skipped) -> Iterator[_Place]:
    try:
        fs, path = fsspec.url_to_fs(item)
        pattern = any(character in path for character in ("*[" if _is_http(fs) else "*?["))
        if (pattern or "{" in path) and not _exists(fs, path):
            alternatives = _alternatives(item)
            if alternatives != [item]:
                for alternative in alternatives:
                    yield from _places(alternative, exclude, skipped)
                return
            place = _matches(fs, path, _inside(fs, exclude), skipped)
        else:
            path = path.rstrip("/") or path
            files = list_files(fs, path, _inside(fs, exclude), skipped)
            single = list(files) == [path]
            place = _Place(fs, posixpath.dirname(_no_query(fs, path)) if single else path, files)
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"{item}: {error}") from error
    if not place.files:
        raise SourceError(f"{item}: nothing is there")
    yield place


def _alternatives(item: str) -> list[str]:
    try:
        return list(braceexpand(item, escape=False))
    except ValueError:  # unbalanced
        return [item]


def _matches(fs: Any, pattern: str, exclude: str | None, skipped: Skipped) -> _Place:
    """Files that match a pattern, and those in folders that do."""
    files: dict[str, int] = {}
    for path, facts in fs.glob(pattern, detail=True).items():
        if is_local(fs):
            if not os.path.isdir(path) or "**" not in pattern:  # which matches what is in it too
                files |= list_files(fs, path, exclude, skipped)
        elif facts.get("type") != "directory":
            files |= without(exclude, {path: int(facts.get("size") or 0)}, skipped)
        elif "**" not in pattern:
            files |= list_files(fs, path, exclude, skipped)
    prefix = pattern.split("*")[0].split("?")[0].split("[")[0]
    return _Place(fs, posixpath.dirname(prefix), files)


def _inside(fs: Any, url: str | None) -> str | None:
    if url is None:
        return None
    other, path = fsspec.url_to_fs(url)
    return path.rstrip("/") if type(other) is type(fs) else None


def _exists(fs: Any, path: str) -> bool:
    return os.path.lexists(path) if is_local(fs) else bool(fs.exists(path))


def _is_http(fs: Any) -> bool:
    protocol = fs.protocol if isinstance(fs.protocol, (list, tuple)) else (fs.protocol,)
    return "http" in protocol or "https" in protocol


def _relative(fs: Any, path: str, root: str) -> str:
    path = _no_query(fs, path)
    return path[len(root) :].lstrip("/") if root and path.startswith(root) else path


def _no_query(fs: Any, path: str) -> str:
    return path.partition("?")[0].partition("#")[0] if _is_http(fs) else path


def _common(folders: list[str]) -> str:
    first, *others = [folder.split("/") for folder in folders]
    for other in others:
        same = 0
        while same < min(len(first), len(other)) and first[same] == other[same]:
            same += 1
        first = first[:same]
    return "/".join(first)
