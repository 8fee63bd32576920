"""A file for each key: its name, and whether every key has one of its own."""

import hashlib
import re
from collections.abc import Iterable

import numpy as np

from channeltok.datasets.errors import SourceError

MAX_NAME_BYTES = 240  # of 255 that file systems allow; the suffix needs some
_NO_NAMES = {"", ".", ".."}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def file_name(key: str) -> str:
    """The path of the file of a key, below a folder and without a suffix.

    It is the key itself wherever that is a path within the folder. What is none (`..`, nothing
    between two slashes, control characters) is percent-escaped, and a part that is too long for a
    file system ends in its digest.
    """
    return "/".join(map(_part, key.split("/")))


def _part(part: str) -> str:
    if part in _NO_NAMES:
        return "".join(map(_escaped, part)) or "%"
    part = _CONTROL.sub(lambda match: _escaped(match[0]), part)
    name = part.encode(errors="surrogateescape")
    if len(name) <= MAX_NAME_BYTES:
        return part
    digest = hashlib.sha256(name).hexdigest()[:16]
    return name[: MAX_NAME_BYTES - 17].decode(errors="ignore") + "~" + digest


def _escaped(character: str) -> str:
    return f"%{ord(character):02X}"


class NameCheck:
    """Finds names that two keys share, or that are also a folder, in 8 bytes a name."""

    def __init__(self) -> None:
        self._files: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        self._folders: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Files of one shard, with their suffixes."""
        names = list(names)
        self._files.append(np.fromiter(map(hash, names), np.int64, len(names)))
        for folder in {name.rpartition("/")[0] for name in names}:
            while folder and folder not in self._folders:
                self._folders.add(folder)
                folder = folder.rpartition("/")[0]

    def suspects(self) -> set[int]:
        """Hashes of names that may be shared; empty if all is well."""
        folders = np.fromiter(map(hash, self._folders), np.int64, len(self._folders))
        values, counts = np.unique(np.concatenate([*self._files, folders]), return_counts=True)
        return set(values[counts > 1].tolist())


def check_names(
    shards: Iterable[tuple[str, list[str]]], again: Iterable[tuple[str, list[str]]]
) -> None:
    """Raise SourceError if two files would have one name, or a file that of a folder.

    Args:
        shards: name and files of each shard.
        again: the same once more, read only to name what is wrong.
    """
    check = NameCheck()
    for _, names in shards:
        check.add(names)
    suspects = check.suspects()
    if not suspects:
        return
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for shard, names in again:
        for name in names:
            folder = name.rpartition("/")[0]
            while folder:
                if hash(folder) in suspects:
                    folders.setdefault(folder, shard)
                folder = folder.rpartition("/")[0]
            if hash(name) not in suspects:
                continue
            if name in seen:
                raise SourceError(
                    f"{name} would be the file of two rows, in {seen[name]} and in {shard}: "
                    "decode the shards to a folder each"
                )
            seen[name] = shard
    for name in seen.keys() & folders.keys():
        raise SourceError(
            f"{name} of {seen[name]} would be a file, and for {folders[name]} a folder: decode the "
            "shards to a folder each"
        )
