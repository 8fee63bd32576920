"""Small sources that tests write, and what is read of them."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from channeltok.datasets.sources import Sample, SourceOptions, find_shards
from channeltok.datasets.sources.listing import Listing

JPEG = b"\xff\xd8\xff\xe0 no real image, and nobody looks"


def member(name: str, content: bytes = JPEG) -> tuple[tarfile.TarInfo, bytes]:
    """A file of a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def link(name: str, target: str, symbolic: bool = False) -> tuple[tarfile.TarInfo, bytes]:
    """A hard or symbolic link in a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE if symbolic else tarfile.LNKTYPE, target
    return info, b""


def tar_bytes(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def write_files(folder: Path, *names: str, content: bytes = JPEG) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read(
    source: str | Path | Sequence[str],
    options: SourceOptions = SourceOptions(),  # noqa: B008
) -> tuple[list[Sample], dict[str, int], Listing]:
    """All samples of a source, what was passed by, and its listing."""
    listing = find_shards(str(source) if isinstance(source, Path) else source, options)
    samples = [sample for shard in listing.shards for sample in shard.samples()]
    skipped = listing.skipped.copy()
    for shard in listing.shards:
        skipped.update(shard.skipped)
    return samples, dict(skipped), listing


def keys(samples: Sequence[Sample]) -> list[str]:
    return [sample.key for sample in samples]
