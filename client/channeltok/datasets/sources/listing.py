"""The shards of a source."""

from collections import Counter
from dataclasses import dataclass, field

from channeltok.datasets.sources.shard import Shard, Skipped


@dataclass
class Listing:
    """The shards of a source.

    Attributes:
        shards: sorted by path.
        skipped: what was passed by.
    """

    shards: list[Shard]
    skipped: Skipped = field(default_factory=Counter)
