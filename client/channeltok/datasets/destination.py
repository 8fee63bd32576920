"""Where tokens go, and what is known of the work done so far.

    DESTINATION/NAME.parquet (or .tar)         a token shard: there only whole
    DESTINATION/.channeltok/manifest.json      what all of it was made with; a run that would differ is refused
    DESTINATION/.channeltok/ledger/NAME.json   written after its shard: this one is done, with so many rows and these rejects
    DESTINATION/.channeltok/rejects.jsonl      all rejects, when a run ends
    DESTINATION/.channeltok/summary.json       what the last run did

A shard and its ledger entry appear by one rename each, after their bytes are on the disk (in an object store: by one upload). Whoever is
killed in between leaves a shard without an entry, which the next run makes again with the same bytes. The same bytes are also why two
runs at once, or two machines with one shard, do no harm.
"""

import json
import os
import posixpath
import socket
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec

from channeltok.datasets.length_stats import Lengths

FOLDER = ".channeltok"  # hidden: readers of the dataset pass it by


class DestinationMismatch(Exception):
    """The destination holds tokens that were made another way; the message says what differs."""


@dataclass(frozen=True)
class Manifest:
    """What every row of a destination has in common. k: tokens an image; None where `quality`, as text, decides them."""

    tokenizer: str
    fingerprint: str
    k: int | None
    container: str
    quality: str | None = None
    format: int = 1


@dataclass(frozen=True)
class Reject:
    """An image without tokens. offset: as in Sample. code, reason: as the service would answer."""

    key: str
    source: str
    offset: int
    code: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """A shard that is done. source, identity: of the source shard. lengths: of its rows, where a quality decided them."""

    source: str
    identity: str
    rows: int
    rejects: list[Reject] = field(default_factory=list)
    lengths: Lengths | None = None


class Destination:
    """A folder of token shards, on any file system that fsspec knows."""

    def __init__(self, url: str, manifest: Manifest) -> None:
        """Raises DestinationMismatch when something else lies there, OSError when it cannot be written."""
        self._fs, self._root = fsspec.url_to_fs(url)
        self._local = isinstance(self._fs, fsspec.implementations.local.LocalFileSystem)
        self._suffix = {"parquet": ".parquet", "webdataset": ".tar"}[manifest.container]
        self._agree(url, manifest)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what runs on this machine left half written when they were killed."""
        for leftover in (
            Path(self._own("")).glob(f"writing-{socket.gethostname()}-*") if self._local else ()
        ):
            try:
                os.kill(int(leftover.name.split("-")[-2]), 0)
            except ProcessLookupError:
                leftover.unlink(missing_ok=True)
            except PermissionError:
                pass  # somebody else's, and alive

    def _agree(self, url: str, manifest: Manifest) -> None:
        path = self._own("manifest.json")
        try:
            there = json.loads(self._fs.cat_file(path))
        except FileNotFoundError:
            found = self._fs.find(self._root) if self._fs.exists(self._root) else []
            for stranger in (path for path in found if f"/{FOLDER}/" not in path):
                name = posixpath.relpath(stranger, self._root)
                raise DestinationMismatch(
                    f"{url} holds {name}, which no run of ours made: take an empty folder"
                ) from None
            self._put(path, _json(asdict(manifest)))
            return
        differences = [
            f"{name} {there.get(name)!r}, not {value!r}"
            for name, value in asdict(manifest).items()
            if there.get(name) != value
        ]
        if differences:
            raise DestinationMismatch(
                f"{url} was begun with {', '.join(differences)}: finish it that way, or take another folder"
            )

    def entry(self, name: str) -> Entry | None:
        """What is known of a shard; None while it is not done."""
        try:
            read = json.loads(self._fs.cat_file(self._own(f"ledger/{name}.json")))
        except FileNotFoundError:
            return None
        lengths = read.get("lengths")
        read["rejects"] = [Reject(**reject) for reject in read["rejects"]]
        return Entry(**{**read, "lengths": None if lengths is None else Lengths.read(lengths)})

    def finish(self, name: str, content: bytes, entry: Entry) -> None:
        """Put a token shard in place, and then its entry."""
        self._put(posixpath.join(self._root, name + self._suffix), content)
        lengths = None if entry.lengths is None else entry.lengths.written()
        self._put(
            self._own(f"ledger/{name}.json"),
            _json({**asdict(replace(entry, lengths=None)), "lengths": lengths}),
        )

    def conclude(self, rejects: list[Reject], summary: dict[str, Any]) -> None:
        """Write rejects.jsonl and summary.json."""
        lines = "".join(json.dumps(asdict(reject)) + "\n" for reject in rejects)
        self._put(self._own("rejects.jsonl"), lines.encode())
        self._put(self._own("summary.json"), _json(summary))

    def _own(self, path: str) -> str:
        return posixpath.join(self._root, FOLDER, path)

    def _put(self, path: str, content: bytes) -> None:
        if not self._local:
            self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
            self._fs.pipe_file(path, content)
            return
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        own = os.path.join(self._root, FOLDER)
        os.makedirs(own, exist_ok=True)
        temporary = os.path.join(
            own, f"writing-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        )
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the rename itself
        finally:
            os.close(descriptor)


def _json(what: dict[str, Any]) -> bytes:
    return json.dumps(what, indent=2).encode() + b"\n"
