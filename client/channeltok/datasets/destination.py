"""The destination of a run: token shards, the manifest, and the ledger of finished shards.

    DESTINATION/NAME.parquet (or .tar)         a token shard, always complete
    DESTINATION/.channeltok/manifest.json      parameters of the run; a run with others is refused
    DESTINATION/.channeltok/ledger/NAME.json   written after its shard: rows and rejects
    DESTINATION/.channeltok/rejects.jsonl      all rejects, written when a run ends
    DESTINATION/.channeltok/summary.json       result of the last run

A shard and its ledger entry each appear by one rename, after their bytes are on disk (in an object
store: by one upload). A run that is killed in between leaves a shard without an entry; the next run
makes it again with the same bytes. For the same reason two runs at once, or two machines with the
same shard, do no harm.
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

from channeltok.datasets.errors import DestinationMismatch
from channeltok.datasets.length_stats import LengthStats
from channeltok.fit import Fit, check_fit

FOLDER = ".channeltok"  # hidden, so that readers of the dataset skip it


@dataclass(frozen=True)
class Manifest:
    """What all rows of a destination have in common.

    k: tokens per image; None where `quality` (as text) chooses. fit: what part of each image the
    tokenizer saw; manifests of older runs lack it, and they cropped.
    """

    tokenizer: str
    fingerprint: str
    k: int | None
    container: str
    quality: str | None = None
    format: int = 1
    fit: Fit = "crop"


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

    source, identity: of the source shard. lengths: where a quality chose k.
    """

    source: str
    identity: str
    rows: int
    rejects: list[Reject] = field(default_factory=list)
    lengths: LengthStats | None = None


class Destination:
    """A folder of token shards, on any file system that fsspec knows."""

    def __init__(self, url: str, manifest: Manifest) -> None:
        """Raises DestinationMismatch if it holds something else, OSError if not writable."""
        self._fs, self._root = fsspec.url_to_fs(url)
        self._local = isinstance(self._fs, fsspec.implementations.local.LocalFileSystem)
        self._suffix = {"parquet": ".parquet", "webdataset": ".tar"}[manifest.container]
        self._check_manifest(url, manifest)
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove half-written files of killed runs on this machine."""
        pattern = f"writing-{socket.gethostname()}-*"
        for leftover in Path(self._internal("")).glob(pattern) if self._local else ():
            try:
                os.kill(int(leftover.name.split("-")[-2]), 0)
            except ProcessLookupError:
                leftover.unlink(missing_ok=True)
            except PermissionError:
                pass  # another user's process, and alive

    def _check_manifest(self, url: str, manifest: Manifest) -> None:
        path = self._internal("manifest.json")
        try:
            stored = json.loads(self._fs.cat_file(path))
        except FileNotFoundError:
            files = self._fs.find(self._root) if self._fs.exists(self._root) else []
            for foreign in (file for file in files if f"/{FOLDER}/" not in file):
                name = posixpath.relpath(foreign, self._root)
                raise DestinationMismatch(
                    f"{url} holds {name}, which was not written by tokenize: use an empty folder"
                ) from None
            self._write(path, _json(asdict(manifest)))
            return
        begun = {"fit": "crop", **stored}
        differences = [
            f"{name} {begun.get(name)!r}, not {value!r}"
            for name, value in asdict(manifest).items()
            if begun.get(name) != value
        ]
        if differences:
            raise DestinationMismatch(
                f"{url} was begun with {', '.join(differences)}: "
                "continue with the same parameters, or use another folder"
            )

    def entry(self, name: str) -> Entry | None:
        """The ledger entry of a shard; None while it is unfinished."""
        try:
            data = json.loads(self._fs.cat_file(self._internal(f"ledger/{name}.json")))
        except FileNotFoundError:
            return None
        lengths = data.get("lengths")
        data["rejects"] = [Reject(**reject) for reject in data["rejects"]]
        data["lengths"] = None if lengths is None else LengthStats.from_json(lengths)
        return Entry(**data)

    def finish(self, name: str, content: bytes, entry: Entry) -> None:
        """Write a token shard, and then its ledger entry."""
        self._write(posixpath.join(self._root, name + self._suffix), content)
        data = asdict(replace(entry, lengths=None))
        data["lengths"] = None if entry.lengths is None else entry.lengths.to_json()
        self._write(self._internal(f"ledger/{name}.json"), _json(data))

    def conclude(self, rejects: list[Reject], summary: dict[str, Any]) -> None:
        """Write rejects.jsonl and summary.json."""
        lines = "".join(json.dumps(asdict(reject)) + "\n" for reject in rejects)
        self._write(self._internal("rejects.jsonl"), lines.encode())
        self._write(self._internal("summary.json"), _json(summary))

    def _internal(self, path: str) -> str:
        return posixpath.join(self._root, FOLDER, path)

    def _write(self, path: str, content: bytes) -> None:
        if not self._local:
            self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
            self._fs.pipe_file(path, content)
            return
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        internal = os.path.join(self._root, FOLDER)
        os.makedirs(internal, exist_ok=True)
        writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        temporary = os.path.join(internal, f"writing-{writer}")
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # makes the rename durable
        finally:
            os.close(descriptor)


def fit_of(url: str) -> Fit:
    """How the images of a destination were fitted: "crop" where its manifest is missing or older.

    Raises InvalidInput for a fit that this release does not know.
    """
    fs, root = fsspec.url_to_fs(url)
    try:
        manifest = json.loads(fs.cat_file(posixpath.join(root, FOLDER, "manifest.json")))
    except FileNotFoundError:
        return "crop"
    return check_fit(manifest.get("fit", "crop"))


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, indent=2).encode() + b"\n"
