"""The ledger: one entry for each finished shard, read with one listing and many reads at once."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from channeltok.datasets.length_stats import LengthStats
from channeltok.datasets.read_ahead import read_ahead

READS_AT_ONCE = 64


@dataclass(frozen=True)
class Reject:
    """An image without tokens. offset: see Sample. code, reason: as the service's errors."""

    key: str
    source: str
    offset: int
    code: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """Ledger entry of a finished shard.

    source, identity: of the source shard. lengths: where a quality chose k. skipped: kind of
    things that were passed by -> their number.
    """

    source: str
    identity: str
    rows: int
    rejects: list[Reject] = field(default_factory=list)
    lengths: LengthStats | None = None
    skipped: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the ledger; `from_json` reads it back."""
        data = asdict(replace(self, lengths=None))
        data["lengths"] = None if self.lengths is None else self.lengths.to_json()
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Entry":
        lengths = data.get("lengths")
        rejects = [Reject(**reject) for reject in data["rejects"]]
        lengths = None if lengths is None else LengthStats.from_json(lengths)
        return cls(**{**data, "rejects": rejects, "lengths": lengths})


def read_entries(fs: Any, folder: str) -> dict[str, Entry]:
    """Shard name -> entry, of all entries in `folder`.

    Raises ValueError for an entry that is none, OSError.
    """
    fs.invalidate_cache(folder)  # other machines write there, too
    try:
        paths = [path for path in fs.find(folder) if path.endswith(".json")]
    except FileNotFoundError:
        return {}
    entries = {}
    for path, content in zip(paths, read_ahead(paths, fs.cat_file, READS_AT_ONCE), strict=True):
        name = path.removeprefix(folder).lstrip("/").removesuffix(".json")
        try:
            entries[name] = Entry.from_json(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no ledger entry: {error!r}") from error
    return entries
