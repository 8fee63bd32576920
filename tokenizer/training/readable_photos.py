"""Photos that can be read. The others are skipped, named and counted: one must not end a run."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import imaging

SUFFIXES = "jpg;jpeg;png;webp"
NAMED = 20  # photos that are named; the others are only counted
Read = TypeVar("Read")


class ReadablePhotos(Generic[Read]):
    """Reads photos, as a stage of a webdataset pipeline or by `read_all`.

    Each bad photo is named on stderr once, with the reason, and each epoch that finds new ones ends
    with their number. Processes count on their own.

    Args:
        read: makes of the bytes of a photo what is wanted; raises imaging.BadImage.
    """

    def __init__(self, read: Callable[[bytes], Read]) -> None:
        self._read = read
        self._bad: set[str] = set()

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Read]]:
        """The name and the photo of each sample of webdataset."""
        return self.read_all(map(name_and_photo, samples))

    def read_all(
        self, photos: Iterable[tuple[str, bytes | None]], map: Callable[..., Iterator[Any]] = map
    ) -> Iterator[tuple[str, Read]]:
        """The name of each photo, and what `read` makes of its bytes.

        map: calls a function with each of an iterable's items; that of a pool reads in its threads.
        """
        count, bad_before = 0, len(self._bad)
        try:
            for name, read in map(self._attempt, photos):
                count += 1
                if isinstance(read, imaging.BadImage):
                    self._skip(name, read)
                else:
                    yield name, read
        finally:
            if len(self._bad) > bad_before:
                _print(f"{len(self._bad)} of {count} photos were skipped: they cannot be read")

    def _attempt(self, photo: tuple[str, bytes | None]) -> tuple[str, Read | imaging.BadImage]:
        name, data = photo
        if data is None:
            return name, imaging.BadImage(f"the sample has no photo ({SUFFIXES})")
        try:
            return name, self._read(data)
        except imaging.BadImage as error:
            return name, error

    def _skip(self, name: str, error: imaging.BadImage) -> None:
        if name not in self._bad and len(self._bad) < NAMED:
            _print(f"skipped {name}: {error}")
        self._bad.add(name)


def name_and_photo(sample: dict[str, Any]) -> tuple[str, bytes | None]:
    """Name of a sample of webdataset, with its shard, and the bytes of its photo if it has one."""
    photo = next((sample[kind] for kind in SUFFIXES.split(";") if kind in sample), None)
    return f"{Path(sample['__url__']).name}/{sample['__key__']}", photo


def _print(text: str) -> None:
    print(text, file=sys.stderr)
