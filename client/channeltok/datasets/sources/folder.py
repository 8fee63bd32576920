"""Loose image files."""

import hashlib
import posixpath
from collections.abc import Iterator
from typing import Any

from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.sample import Sample, too_large
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
        for number, (key, path, size) in enumerate(self._files):
            refusal = too_large(size)
            if key in keys:
                key, refusal = (
                    posixpath.relpath(path, self._path),
                    f"another image already has the key {key}",
                )
            keys.add(key)
            image = b""
            if not refusal:
                try:
                    image = self._fs.cat_file(path)
                except (FileNotFoundError, PermissionError) as error:
                    refusal = f"the file cannot be read: {error.strerror or error}"
            yield Sample(key, number, posixpath.dirname(key) or None, image, refusal)
