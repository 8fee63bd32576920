"""How earlier runs cut loose images into shards, so that files that are added change no shard."""

import gzip
import json
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from channeltok.datasets.sources.names import UniqueNames
from channeltok.datasets.sources.places import SourceFile

CutShard = tuple[str, tuple[str, ...]]
"""Name of a shard of loose images, and their paths in the source."""


@dataclass(frozen=True)
class RecordedCut:
    """Shards of loose images that are cut already, in their order. times: of recording."""

    shards: Sequence[CutShard] = ()
    times: int = 0
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(name for name, _ in self.shards))

    def assign(self, files: Iterable[SourceFile]) -> list[tuple[SourceFile, str | None]]:
        """Files with the shards that they belong to: first those of the cut, in its order, then
        the others as they come, which belong to none yet. Files that are gone are left out."""
        places: dict[str, deque[tuple[int, str]]] = defaultdict(deque)
        rank = 0
        for name, paths in self.shards:
            for path in paths:
                places[path].append((rank, name))
                rank += 1
        old, new = list[tuple[int, SourceFile, str]](), list[tuple[SourceFile, str | None]]()
        for file in files:
            if place := places.get(file.relative):
                rank, name = place.popleft()
                old.append((rank, file, name))
            else:
                new.append((file, None))
        old.sort(key=lambda one: one[0])
        return [*((file, name) for _, file, name in old), *new]


def to_bytes(shards: Iterable[CutShard]) -> bytes:
    """A line of JSON for each shard, compressed; the same shards give the same bytes."""
    lines = [json.dumps({"shard": name, "files": paths}) for name, paths in shards]
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def from_bytes(content: bytes) -> list[CutShard]:
    """Read what `to_bytes` wrote. Raises ValueError, OSError (what gzip says of other bytes)."""
    shards = map(json.loads, gzip.decompress(content).splitlines())
    return [(shard["shard"], tuple(shard["files"])) for shard in shards]


class Cutter:
    """Collects the cut of one listing.

    Attributes:
        new: shards that were in no earlier cut.
    """

    def __init__(self, recorded: RecordedCut) -> None:
        self.recorded = recorded
        self.new: list[CutShard] = []
        self._next = 0

    def new_name(self, paths: Sequence[str], names: UniqueNames) -> str:
        """The name of a new shard of these images. names: of all other shards."""
        while (name := f"images-{self._next:05d}") in self.recorded.names:
            self._next += 1
        self._next += 1
        name = names.add(name)
        self.new.append((name, tuple(paths)))
        return name
