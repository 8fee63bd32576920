"""What a source names: literally, by braces, or by a pattern."""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
from braceexpand import braceexpand

from channeltok.datasets.errors import SourceError
from channeltok.datasets.read_ahead import read_ahead
from channeltok.datasets.sources.shard import Skipped
from channeltok.datasets.sources.walk import (
    DESTINATION,
    is_http,
    is_local,
    list_files,
    same_folder,
    size_of_url,
    without,
    without_query,
)

_MANY = 8  # files of one folder, or URLs, that are named one by one
_URLS_AT_ONCE = 32


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    Attributes:
        fs: its file system.
        path: its path there.
        relative: its path in the source, without the query of a URL.
        size: bytes.
        named: whether the source names this very file.
    """

    fs: Any
    path: str
    relative: str
    size: int
    named: bool = False


@dataclass(frozen=True)
class _Place:
    fs: Any
    root: str  # the folder that names are relative to
    files: dict[str, int]  # path -> bytes
    is_file: bool = False


@dataclass(frozen=True)
class _Target:
    item: str  # as it was written, for messages
    fs: Any
    path: str
    is_pattern: bool


def find_files(
    source: str | os.PathLike[str] | Sequence[str], exclude: str | None, skipped: Skipped
) -> tuple[list[SourceFile], str]:
    """All files of a source, sorted by their relative paths, and the folder they are in.

    Raises SourceError if there are none, or they cannot be listed.
    """
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    targets = [target for item in items for target in _targets(os.fspath(item))]
    places = list(_places(targets, exclude, skipped))
    file_systems = list(dict.fromkeys(place.fs for place in places))  # equal ones are one
    roots = {fs: _common([place.root for place in places if place.fs == fs]) for fs in file_systems}
    files: dict[tuple[Any, str], SourceFile] = {}
    for place in places:
        for path, size in place.files.items():
            if (place.fs, path) in files:
                skipped["file that is named twice"] += 1
                continue
            relative = _relative(place.fs, path, roots[place.fs])
            if len(file_systems) > 1:
                relative = re.sub(":/+", "/", place.fs.unstrip_protocol(path))
            files[place.fs, path] = SourceFile(place.fs, path, relative, size, place.is_file)
    ordered = sorted(files.values(), key=lambda file: (file.relative, file.path))
    return ordered, roots[file_systems[0]] if file_systems else ""


def _targets(item: str) -> Iterator[_Target]:
    """What an item of a source means: itself if that exists, else each of its alternatives."""
    with _telling(item):
        fs, path = fsspec.url_to_fs(item)
        magic = any(character in path for character in ("*[" if is_http(fs) else "*?["))
        exists = not (magic or "{" in path) or _exists(fs, path)
        alternatives = [item] if exists else _alternatives(item)
    if alternatives != [item]:
        for alternative in alternatives:
            yield from _targets(alternative)
    elif exists or not magic:
        yield _Target(item, fs, path.rstrip("/") or path, is_pattern=False)
    else:
        yield _Target(item, fs, path, is_pattern=True)


def _places(targets: list[_Target], exclude: str | None, skipped: Skipped) -> Iterator[_Place]:
    known = _many_files([target for target in targets if not target.is_pattern])
    for target in targets:
        fs, path = target.fs, target.path
        with _telling(target.item):
            inside = _inside(fs, exclude)
            if target.is_pattern:
                place = _matches(fs, path, inside, skipped)
            else:
                size = known.get((fs, path))
                files = list_files(fs, path, inside, skipped) if size is None else {path: size}
                alone = list(files) == [path]
                root = posixpath.dirname(without_query(fs, path)) if alone else path
                place = _Place(fs, root, files, is_file=alone)
        if not place.files:
            raise SourceError(f"{target.item}: nothing is there")
        yield place


@contextmanager
def _telling(item: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(f"{item}: nothing is there: {error.__cause__ or error}") from error
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"{item}: {error}") from error


def _many_files(targets: list[_Target]) -> dict[tuple[Any, str], int]:
    """Sizes of remote files that are named one by one: where many are, those that are found with
    one listing of each folder, and of URLs with many requests at once.
    """
    urls = [target for target in targets if is_http(target.fs)]
    sizes: dict[tuple[Any, str], int] = {}
    if len(urls) >= _MANY:
        for target, size in zip(urls, read_ahead(urls, _size_of, _URLS_AT_ONCE), strict=True):
            if size is not None:
                sizes[target.fs, target.path] = size
    folders: dict[tuple[Any, str], list[_Target]] = {}
    for target in targets:
        if not is_local(target.fs) and not is_http(target.fs):
            key = target.fs, posixpath.dirname(target.path)
            folders.setdefault(key, []).append(target)
    for (_, folder), named in folders.items():
        if len(named) < _MANY:
            continue
        fs = named[0].fs
        with _telling(named[0].item):
            fs.invalidate_cache()
            for facts in fs.ls(folder, detail=True):
                if facts["type"] == "file":
                    sizes[fs, facts["name"]] = int(facts.get("size") or 0)
    return sizes


def _size_of(target: _Target) -> int | None:
    try:
        return size_of_url(target.fs, target.path)
    except FileNotFoundError:
        return None  # told when it is the target's turn


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
            if not os.path.isdir(path):
                files |= list_files(fs, path, exclude, skipped)
            elif exclude is not None and same_folder(path, exclude):
                skipped[DESTINATION] = 1
            elif "**" not in pattern:  # which matches what is in it too
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


def _relative(fs: Any, path: str, root: str) -> str:
    path = without_query(fs, path)
    return path.removeprefix(root).lstrip("/")


def _common(folders: list[str]) -> str:
    first, *others = [folder.split("/") for folder in folders]
    for other in others:
        same = 0
        while same < min(len(first), len(other)) and first[same] == other[same]:
            same += 1
        first = first[:same]
    return "/".join(first)
