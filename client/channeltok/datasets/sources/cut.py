"""Cut a source into shards: by its layout alone, so that every run and machine cuts it the same."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.datasets.sources.folder import Folder, LooseImage
from channeltok.datasets.sources.names import UniqueNames
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.parquet import Parquet
from channeltok.datasets.sources.places import SourceFile
from channeltok.datasets.sources.recorded_cut import Cutter
from channeltok.datasets.sources.shard import Shard
from channeltok.datasets.sources.tar import Tar
from channeltok.datasets.sources.walk import is_http

FOLDER_SHARD_IMAGES = 1000
SPLIT_BYTES = 512 * 2**20  # files of at least this size are cut into parts
PART_BYTES = 256 * 2**20  # of about this size
_THREADS = 16  # that read the footers of big Parquet files


def cut_loose(
    fs: Any,
    root: str,
    images: Sequence[tuple[LooseImage, str | None]],
    cutter: Cutter,
    names: UniqueNames,
    options: SourceOptions,
) -> list[Shard]:
    """Shards of loose images: those that an earlier run cut, then FOLDER_SHARD_IMAGES in each.

    Args:
        fs: file system of the images.
        root: of the source, for messages.
        images: each with the name of its shard, None where it belongs to none yet.
        cutter: names new shards.
        names: of all shards.
        options: what is read.
    """
    shards: dict[str, list[LooseImage]] = {}
    new = []
    for image, name in images:
        if name is None:
            new.append(image)
        else:
            shards.setdefault(name, []).append(image)
    for name in shards:
        names.add(name)
    for start in range(0, len(new), FOLDER_SHARD_IMAGES):
        part = new[start : start + FOLDER_SHARD_IMAGES]
        name = cutter.new_name([image.relative for image in part], names)
        shards[name] = part
    return [Folder(fs, root, name, part, options) for name, part in shards.items()]


def cut_tar(
    file: SourceFile, name: str, metadata: SourceFile | None, options: SourceOptions
) -> list[Shard]:
    """One shard, or for a big tar several, each of the samples that begin in its share of bytes.

    Compressed tars are not cut, nor those of web servers, some of which read only from the start.
    """
    identity, path = str(file.size), None
    if metadata is not None and options.names():
        identity, path = f"{identity}+{metadata.size}", metadata.path
    parts = 1
    if file.path.lower().endswith(".tar") and not is_http(file.fs):
        parts = _parts(file.size, options)
    return [
        Tar(
            file.fs,
            part_name(name, number, parts),
            file.path,
            file.size,
            identity,
            options,
            file.relative,
            path,
            (number, parts),
        )
        for number in range(parts)
    ]


def cut_parquet(files: Sequence[tuple[SourceFile, str]], options: SourceOptions) -> list[Shard]:
    """For each file with its name one shard, or for a big one several, of whole row groups."""
    with ThreadPoolExecutor(_THREADS) as pool:
        cuts = pool.map(lambda item: _row_groups(item[0], options), files)
        return [
            Parquet(
                file.fs,
                part_name(name, number, len(parts)),
                file.path,
                size,
                str(file.size),
                options,
                file.relative,
                groups,
                first_row,
            )
            for (file, name), parts in zip(files, cuts, strict=True)
            for number, (size, groups, first_row) in enumerate(parts)
        ]


def part_name(name: str, number: int, parts: int) -> str:
    """The name of one of so many parts of a shard."""
    return name if parts == 1 else f"{name}-{number:04d}-of-{parts:04d}"


def _parts(size: int, options: SourceOptions) -> int:
    return 1 if options.whole_files or size < SPLIT_BYTES else -(-size // PART_BYTES)


def _row_groups(
    file: SourceFile, options: SourceOptions
) -> list[tuple[int, tuple[int, ...] | None, int]]:
    """Bytes, row groups and first row of each part."""
    whole: list[tuple[int, tuple[int, ...] | None, int]] = [(file.size, None, 0)]
    parts = _parts(file.size, options)
    if parts == 1:
        return whole
    try:
        with file.fs.open(file.path, "rb") as opened:
            footer = pq.read_metadata(opened)
    except pa.ArrowInvalid:
        return whole  # reading the shard says what is wrong
    groups: list[list[int]] = [[]]
    sizes, first_rows, rows, done = [0], [0], 0, 0
    total = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
    for group in range(footer.num_row_groups):
        facts = footer.row_group(group)
        if groups[-1] and done >= total * len(groups) // parts:
            groups.append([])
            sizes.append(0)
            first_rows.append(rows)
        groups[-1].append(group)
        sizes[-1] += file.size * facts.total_byte_size // max(total, 1)
        rows, done = rows + facts.num_rows, done + facts.total_byte_size
    if len(groups) == 1:
        return whole
    return [
        (size, tuple(chosen), first)
        for size, chosen, first in zip(sizes, groups, first_rows, strict=True)
    ]
