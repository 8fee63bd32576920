"""Find the shards of a source."""

import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.cut import cut_loose, cut_parquet, cut_tar
from channeltok.datasets.sources.listing import Listing
from channeltok.datasets.sources.loose import LooseImages
from channeltok.datasets.sources.metadata import KEY, METADATA_NAMES
from channeltok.datasets.sources.names import SUFFIXES, UniqueNames, split_suffix
from channeltok.datasets.sources.options import DEFAULTS, SourceOptions
from channeltok.datasets.sources.parquet_schema import image_column
from channeltok.datasets.sources.places import SourceFile, find_files
from channeltok.datasets.sources.recorded_cut import Cutter, RecordedCut
from channeltok.datasets.sources.shard import Shard, Skipped, describe_skipped

NOTHING_CUT = RecordedCut()


@dataclass
class _Files:
    """Files of a source by what they are."""

    tars: list[SourceFile] = field(default_factory=list)
    parquets: list[SourceFile] = field(default_factory=list)
    images: list[SourceFile] = field(default_factory=list)
    others: list[SourceFile] = field(default_factory=list)


def find_shards(
    source: str | Sequence[str],
    options: SourceOptions = DEFAULTS,
    recorded: RecordedCut = NOTHING_CUT,
) -> Listing:
    """Cut a source into shards.

    Args:
        source: a path, a URL, or a pattern of them, with * ? [] or {}; or several of these. What
            exists under that very name is meant, whatever characters are in it.
        options: what is read.
        recorded: how earlier runs cut the loose images.

    Returns:
        The shards, tars and Parquet files first, each kind sorted by path; and what was passed by.

    Raises:
        SourceError: there is nothing to tokenize, or it cannot be listed.
    """
    skipped: Skipped = Counter()
    cutter = Cutter(recorded)
    shown = str(source) if isinstance(source, (str, os.PathLike)) else ", ".join(map(str, source))
    found, root = find_files(source, options.exclude, skipped)
    try:
        shards = _shards(_sorted_out(found, options, skipped), root, options, skipped, cutter)
    except OSError as error:
        raise SourceError(f"{shown}: {error}") from error
    if not shards:
        raise SourceError(
            f"{shown}: no images there: no .tar, no .parquet and no file with an image suffix"
            + (f"; passed by: {describe_skipped(skipped)}" if skipped else "")
        )
    return Listing(shards, skipped, cutter.new)


def _sorted_out(found: list[SourceFile], options: SourceOptions, skipped: Skipped) -> _Files:
    files = _Files()
    for file in found:
        kind = split_suffix(file.relative)[1]
        *folders, base = file.relative.split("/")
        if not file.named and (
            base.startswith(".") or any(folder.startswith((".", "_")) for folder in folders)
        ):
            skipped["hidden file"] += 1
        elif kind in SUFFIXES:  # also _MG_0001.jpg, as cameras name photos
            files.images.append(file)
        elif base.startswith("_") and not file.named:
            skipped["hidden file"] += 1
        elif kind == "tar":
            files.tars.append(file)
        elif kind == "parquet":
            files.parquets.append(file)
        else:
            files.others.append(file)
    return files


def _shards(
    files: _Files, root: str, options: SourceOptions, skipped: Skipped, cutter: Cutter
) -> list[Shard]:
    loose, beside_tars = LooseImages(options, skipped), dict[str, SourceFile]()
    if files.images:
        files.others = [
            file
            for file in files.others
            if posixpath.basename(file.relative) not in METADATA_NAMES
            or not loose.add_metadata(file)
        ]
    parquets = _without_metadata(files, loose, beside_tars)
    shards, names = list[Shard](), _Names([*files.tars, *parquets, *files.images])
    for file in files.tars:
        metadata = beside_tars.get(split_suffix(file.relative)[0])
        shards += cut_tar(file, names.of(file), metadata, options)
    shards += cut_parquet([(file, names.of(file)) for file in parquets], options)
    # What is cut already comes first, so that its keys, too, stay what they are.
    assigned = cutter.recorded.assign(files.images)
    images = loose.images([file for file, _ in assigned], files.others)
    if not shards:  # beside others, images without captions are counted
        loose.check(images)
    by_fs = defaultdict(list)
    for (file, name), image in zip(assigned, images, strict=True):
        by_fs[file.fs].append((image, name))
    for fs, mine in by_fs.items():
        shards += cut_loose(fs, root, mine, cutter, names.taken, options)
    return shards


class _Names:
    """Names of shards: the path without its suffix, or with it where another file needs that.

    A shard's keys begin with its name, and those of loose images with their folder: the name of a
    shard is no folder's.
    """

    def __init__(self, files: list[SourceFile]) -> None:
        self.taken = UniqueNames()
        self._folders: set[str] = set()
        for file in files:
            folder = posixpath.dirname(file.relative)
            while folder and folder not in self._folders:
                self._folders.add(folder)
                folder = posixpath.dirname(folder)
        self._bases: set[str] = set()

    def of(self, file: SourceFile) -> str:
        base = split_suffix(file.relative)[0]
        if base in self._folders or base in self._bases:
            return self.taken.add(file.relative)
        self._bases.add(base)
        return self.taken.add(base)


def _without_metadata(
    files: _Files, loose: LooseImages, beside_tars: dict[str, SourceFile]
) -> list[SourceFile]:
    """The Parquet files with images; those that describe images elsewhere are put to these.

    img2dataset writes 00000.parquet beside 00000.tar, or beside a folder 00000. One file in each
    folder is looked into.
    """
    tars = {split_suffix(file.relative)[0] for file in files.tars}
    folders = {posixpath.dirname(file.relative) for file in files.images}
    decided: dict[str, bool] = {}  # folder -> whether such files there describe images
    rest = []
    for file in files.parquets:
        base, folder = split_suffix(file.relative)[0], posixpath.dirname(file.relative)
        named = posixpath.basename(file.relative) in METADATA_NAMES and bool(files.images)
        if named and not _holds_images(file) and loose.add_metadata(file):
            continue
        if base in tars or base in folders:
            if folder not in decided:
                decided[folder] = not _holds_images(file) and KEY in _columns(file)
            if decided[folder]:
                if base in tars:
                    beside_tars[base] = file
                else:
                    loose.add_keyed_metadata(file, base)
                continue
        rest.append(file)
    return rest


def _holds_images(file: SourceFile) -> bool:
    try:
        image_column(_schema(file), None, file.path)
    except SourceError:
        return False
    except pa.ArrowInvalid:
        return True  # damaged: reading it says so
    return True


def _columns(file: SourceFile) -> list[str]:
    names: list[str] = _schema(file).names
    return names


def _schema(file: SourceFile) -> Any:
    with file.fs.open(file.path, "rb") as opened:
        return pq.read_schema(opened)
