"""The shards of a source."""

from collections import Counter
from dataclasses import dataclass, field

from channeltok.datasets.sources.recorded_cut import CutShard
from channeltok.datasets.sources.shard import Shard, Skipped


@dataclass
class Listing:
    """The shards of a source.

    Attributes:
        shards: sorted by path.
        skipped: what was passed by.
        new_cut: those of loose images that no earlier run has cut.
    """

    shards: list[Shard]
    skipped: Skipped = field(default_factory=Counter)
    new_cut: list[CutShard] = field(default_factory=list)
