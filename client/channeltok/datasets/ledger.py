"""The ledger: one entry for each finished shard, read with one listing and many reads at once."""

import gzip
import json
import zlib
from collections.abc import Mapping
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


def read_entries(fs: Any, folder: str, index: str) -> tuple[dict[str, Entry], int]:
    """Shard name -> entry, of all entries in `folder`; and how many were not in the index.

    One listing, and a read for each entry that has changed since `index` was written.

    Raises ValueError for an entry that is none, OSError.
    """
    there = _listing(fs, folder)
    entries = _read_index(fs, index, there) if there else {}
    names = [name for name in there if name not in entries]
    paths = [f"{folder}/{name}.json" for name in names]
    contents = read_ahead(paths, fs.cat_file, READS_AT_ONCE)
    for name, path, content in zip(names, paths, contents, strict=True):
        try:
            entries[name] = Entry.from_json(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no ledger entry: {error!r}") from error
    return entries, len(names)


def index_of(fs: Any, folder: str, index: str, entries: Mapping[str, Entry]) -> bytes:
    """The content of a new index: `entries`, and those of the old one that are still as they were.

    Entries remain the truth. The index saves reading each of them, which an object store answers
    one by one.
    """
    there = _listing(fs, folder)
    known = {**_read_index(fs, index, there), **entries}
    lines = [
        json.dumps({"shard": name, "version": there[name], "entry": entry.to_json()})
        for name, entry in sorted(known.items())
        if name in there
    ]
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def _listing(fs: Any, folder: str) -> dict[str, str]:
    """Shard name -> what changes when its entry does."""
    fs.invalidate_cache(folder)  # other machines write there, too
    try:
        files = fs.find(folder, detail=True)
    except FileNotFoundError:
        return {}
    return {
        path.removeprefix(folder).lstrip("/").removesuffix(".json"): _version(facts)
        for path, facts in files.items()
        if path.endswith(".json")
    }


def _version(facts: Mapping[str, Any]) -> str:
    names = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
    changed = next((facts[name] for name in names if facts.get(name)), "")
    return f"{facts.get('size')} {changed}"


def _read_index(fs: Any, index: str, there: Mapping[str, str]) -> dict[str, Entry]:
    try:
        lines = gzip.decompress(fs.cat_file(index)).splitlines()
        stored = map(json.loads, lines)
        return {
            line["shard"]: Entry.from_json(line["entry"])
            for line in stored
            if there.get(line["shard"]) == line["version"]
        }
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        return {}  # the entries say it all
