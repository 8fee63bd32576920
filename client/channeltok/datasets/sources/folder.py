"""Loose image files."""

import hashlib
import posixpath
from collections.abc import Iterator
from typing import Any

from channeltok.datasets.sources.loose_files import read_files
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.sample import Sample
from channeltok.datasets.sources.shard import Shard


class Folder(Shard):
    """Loose image files, (key, path, size) each."""

    def __init__(
        self,
        fs: Any,
        root: str,
        name: str,
        files: list[tuple[str, str, int]],
        options: SourceOptions,
    ) -> None:
        listing = "\n".join(f"{key}\t{size}" for key, _, size in files)
        super().__init__(
            fs,
            name,
            root,
            sum(size for *_, size in files),
            hashlib.sha256(listing.encode()).hexdigest()[:16],
            options,
        )
        self._files = files

    def _samples(self) -> Iterator[Sample]:
        keys: set[str] = set()
        contents = read_files(self._fs, ((path, size) for _, path, size in self._files))
        for number, ((key, path, _), (image, refusal)) in enumerate(
            zip(self._files, contents, strict=True)
        ):
            if key in keys:
                image, refusal = b"", f"another image already has the key {key}"
                key = posixpath.relpath(path, self._path)
            keys.add(key)
            yield Sample(key, number, posixpath.dirname(key) or None, image, refusal)
