"""The destination of a run: token shards, the manifest, and the ledger of finished shards.

    DESTINATION/NAME.parquet (or .tar)         a token shard, always complete
    DESTINATION/.channeltok/manifest.json      parameters of the run; a run with others is refused
    DESTINATION/.channeltok/ledger/NAME.json   written after its shard: rows and rejects
    DESTINATION/.channeltok/ledger-index.jsonl.gz  in object stores: the entries in one file
    DESTINATION/.channeltok/cuts/              how loose images are cut into shards; see RecordedCut
    DESTINATION/.channeltok/classes/           names of all classes, where the source says them
    DESTINATION/.channeltok/rejects.jsonl      all rejects, written when a run ends
    DESTINATION/.channeltok/summary.json       result of the last run

A shard and its ledger entry each appear by one rename, after their bytes are on disk (in an object
store: by one upload). A run that is killed in between leaves a shard without an entry; the next run
makes it again with the same bytes. For the same reason two runs at once, or two machines with the
same shard, do no harm.
"""

import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import fsspec

from channeltok.datasets.durable_files import DurableFiles
from channeltok.datasets.errors import DestinationMismatch
from channeltok.datasets.ledger import Entry, Reject, index_of, read_entries
from channeltok.datasets.sources import CutShard, RecordedCut, SourceOptions
from channeltok.datasets.sources.recorded_cut import from_bytes, to_bytes
from channeltok.fit import Fit, check_fit

FOLDER = ".channeltok"  # hidden, so that readers of the dataset skip it
INDEX = "ledger-index.jsonl.gz"
INDEXED_ENTRIES = 100  # fewer are read as fast without
FORMAT = 2
"""Of the keys. Format 1 had none of a shard's name in them, so that they repeated."""


@dataclass(frozen=True)
class Manifest:
    """What all rows of a destination have in common.

    k: tokens per image; None where `quality` (as text) chooses. fit: what part of each image the
    tokenizer saw; manifests of older runs lack it, and they cropped. keep to whole_files: what was
    read of the source, see SourceOptions. views: how many random views of each image there are, by
    `seed`; 0 for the image itself.
    """

    tokenizer: str
    fingerprint: str
    k: int | None
    container: str
    quality: str | None = None
    format: int = FORMAT
    fit: Fit = "crop"
    keep: list[str] = field(default_factory=list)
    image_column: str | None = None
    label_column: str | None = None
    key_column: str | None = None
    whole_files: bool = False
    views: int = 0
    seed: int = 0


class Destination:
    """A folder of token shards, on any file system that fsspec knows. Can be pickled."""

    def __init__(self, url: str, manifest: Manifest) -> None:
        """Raises DestinationMismatch if it holds something else, DestinationError if it cannot be
        written, OSError if it cannot be read."""
        self._fs, self._root = fsspec.url_to_fs(url)
        self._classes: set[str] = set()  # that are stored
        self._suffix = {"parquet": ".parquet", "webdataset": ".tar"}[manifest.container]
        self._files = DurableFiles(self._fs, self._root, posixpath.join(self._root, FOLDER))
        self._unindexed = 0  # entries that were not in the index
        begun = self._stored_manifest()
        if begun is None:
            self._refuse_foreign_files(url)
            begun = self._stored_manifest()  # another part of the same run may have been faster
        if begun is None:
            self._files.prepare()
            self._files.write(self._internal("manifest.json"), _json(asdict(manifest)))
        else:
            _compare(url, begun, manifest)
            self._files.prepare()

    def _stored_manifest(self) -> dict[str, Any] | None:
        try:
            manifest: dict[str, Any] = json.loads(
                self._fs.cat_file(self._internal("manifest.json"))
            )
        except FileNotFoundError:
            return None
        return manifest

    def _refuse_foreign_files(self, url: str) -> None:
        files = self._fs.find(self._root) if self._fs.exists(self._root) else []
        foreign = next((file for file in files if f"/{FOLDER}/" not in file), None)
        if foreign is not None and self._stored_manifest() is None:
            name = posixpath.relpath(foreign, self._root)
            raise DestinationMismatch(
                f"{url} holds {name}, which was not written by tokenize: use an empty folder"
            )

    def entries(self) -> dict[str, Entry]:
        """The ledger: name of each finished shard -> its entry."""
        ledger, index = self._internal("ledger"), self._internal(INDEX)
        entries, self._unindexed = read_entries(self._fs, ledger, index)
        return entries

    def record_cut(self, shards: list[CutShard], number: int) -> None:
        """Record how loose images are cut. number: of cuts that were recorded before."""
        self._files.write(self._internal(f"cuts/{number:05d}.jsonl.gz"), to_bytes(shards))

    def finish(self, name: str, content: bytes, entry: Entry) -> None:
        """Write a token shard, and then its ledger entry.

        Raises DestinationError where nothing can be written, ValueError where this shard cannot.
        """
        self._files.write(posixpath.join(self._root, name + self._suffix), content)
        self._files.write(self._internal(f"ledger/{name}.json"), _json(entry.to_json()))

    def add_classes(self, names: Sequence[str]) -> None:
        """Store the names of all classes that a source has, once for each list of them.

        Raises as `finish`.
        """
        content = _json([*names])
        name = hashlib.sha256(content).hexdigest()[:16]
        if name not in self._classes:
            self._files.write(self._internal(f"classes/{name}.json"), content)
            self._classes.add(name)

    def conclude(
        self, rejects: list[Reject], summary: dict[str, Any], part: tuple[int, int] | None = None
    ) -> None:
        """Write rejects.jsonl and summary.json; of a part of a run, files of its own."""
        suffix = "" if part is None else f"-{part[0]}-of-{part[1]}"
        lines = "".join(json.dumps(asdict(reject)) + "\n" for reject in rejects)
        self._files.write(self._internal(f"rejects{suffix}.jsonl"), lines.encode())
        self._files.write(self._internal(f"summary{suffix}.json"), _json(summary))

    def write_index(self, entries: Mapping[str, Entry], new: int) -> None:
        """Write the index of the ledger, where that saves round trips.

        entries: of the shards that this run knows to be finished, `new` of them by itself.
        """
        out_of_date = new or self._unindexed
        if self._files.remote and out_of_date and len(entries) >= INDEXED_ENTRIES:
            index = self._internal(INDEX)
            content = index_of(self._fs, self._internal("ledger"), index, entries)
            self._files.write(index, content)

    def abandon(self) -> None:
        """Remove half-written files: the run ends, and its threads will not finish them."""
        self._files.abandon()

    def _internal(self, path: str) -> str:
        return posixpath.join(self._root, FOLDER, path)


def _compare(url: str, stored: dict[str, Any], manifest: Manifest) -> None:
    begun = {"fit": "crop", "views": 0, "seed": 0, **stored}
    if begun.get("format", 1) < FORMAT:
        raise DestinationMismatch(
            f"{url} was begun by an older release, with other keys: read, decode and verify it as "
            "ever, and tokenize into another folder"
        )
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


def manifest_of(url: str) -> dict[str, Any]:
    """The stored manifest of a destination; {} where it has none."""
    fs, root = fsspec.url_to_fs(url)
    try:
        manifest: dict[str, Any] = json.loads(
            fs.cat_file(posixpath.join(root, FOLDER, "manifest.json"))
        )
    except FileNotFoundError:
        return {}
    return manifest


def recorded_cut_of(url: str) -> RecordedCut:
    """How the loose images of a destination's source were cut; nothing where none was.

    Raises ValueError for a file that holds no cut, OSError.
    """
    fs, root = fsspec.url_to_fs(url)
    folder = posixpath.join(root, FOLDER, "cuts")
    fs.invalidate_cache(folder)  # other machines write there, too
    try:
        paths = sorted(path for path in fs.find(folder) if path.endswith(".jsonl.gz"))
    except FileNotFoundError:
        return RecordedCut()
    cuts = [from_bytes(fs.cat_file(path)) for path in paths]
    return RecordedCut(tuple(chain.from_iterable(cuts)), times=len(cuts))


def fit_of(url: str) -> Fit:
    """How the images of a destination were fitted: "crop" where its manifest is missing or older.

    Raises InvalidInput for a fit that this release does not know.
    """
    return check_fit(manifest_of(url).get("fit", "crop"))


def options_of(url: str) -> SourceOptions:
    """What was read of the source of a destination; the defaults where its manifest is missing.

    The destination itself is left out, and no columns are kept.
    """
    manifest = manifest_of(url)
    # Older releases cut no files.
    read = {"whole_files": bool(manifest) and manifest.get("format", 1) < FORMAT, **manifest}
    names = ("image_column", "label_column", "key_column", "whole_files")
    return SourceOptions(exclude=url, **{name: read[name] for name in names if name in read})


def _json(data: Any) -> bytes:
    return json.dumps(data, indent=2).encode() + b"\n"
