"""The shards of a source."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from channeltok.datasets.sources.folder import Folder
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

    def cut_otherwise(self, finished: Mapping[str, str]) -> set[str]:
        """Names of shards whose file is finished under other names: it grew or shrank and has other
        parts now, or another file took its short name. Their images would come twice.

        finished: name of a finished shard -> path of its source.
        """
        names = {shard.name for shard in self.shards}
        sources = {path for name, path in finished.items() if name not in names}
        return {
            shard.name
            for shard in self.shards
            if shard.path in sources and not isinstance(shard, Folder)
        }
