"""A part of a source that becomes one token shard."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

from channeltok.datasets.sources.names import escape
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.sample import Sample

Skipped: TypeAlias = Counter[str]
"""Kind of things that were passed by -> number of them."""


def describe_skipped(skipped: Skipped) -> str:
    """The counts in words."""
    return ", ".join(f"{number:,} × {kind}" for kind, number in sorted(skipped.items()))


class Shard(ABC):
    """A part of a source that becomes one token shard.

    Attributes:
        name: name of the token shard, without suffix; valid Unicode.
        path: path or URL, for messages; valid Unicode.
        size: bytes.
        identity: changes with the shard's content, as far as a file listing can tell.
        skipped: what the last run of `samples` passed by; counts while it runs.
        class_names: of all classes, by their numbers, where the source says them; known once
            `samples` has run.
    """

    def __init__(
        self, fs: Any, name: str, path: str, size: int, identity: str, options: SourceOptions
    ) -> None:
        self.name, self.size, self.identity = escape(name), size, identity
        self.path = escape(path if "file" in fs.protocol else fs.unstrip_protocol(path))
        self.skipped: Skipped = Counter()
        self.class_names: tuple[str, ...] = ()
        self._fs, self._path, self._options = fs, path, options

    def samples(self) -> Iterator[Sample]:
        """Yield all images in order.

        Raises:
            SourceError: the shard is damaged, or does not hold what the options name. Reading it
                again would not help.
            OSError: reading fails; it may succeed later.
        """
        self.skipped.clear()
        return self._samples()

    @abstractmethod
    def _samples(self) -> Iterator[Sample]:
        """Yield all images in order, see `samples`."""
