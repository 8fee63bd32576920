"""Find the shards of a source."""

import posixpath
from collections import Counter

import fsspec

from channeltok.datasets.errors import SourceError
from channeltok.datasets.sources.folder import Folder
from channeltok.datasets.sources.listing import Listing
from channeltok.datasets.sources.names import SUFFIXES, split_suffix
from channeltok.datasets.sources.options import DEFAULTS, SourceOptions
from channeltok.datasets.sources.parquet import Parquet
from channeltok.datasets.sources.shard import Shard
from channeltok.datasets.sources.tar import Tar

FOLDER_SHARD_IMAGES = 1000


def find_shards(source: str, options: SourceOptions = DEFAULTS) -> Listing:
    """Cut a source into shards, sorted by path.

    Args:
        source: a path, a URL, or a glob of them.

    Raises:
        SourceError: there is nothing to tokenize, or two shards would have one name.
    """
    try:
        fs, root = fsspec.url_to_fs(source)
        pattern = any(character in root for character in "*?[")
        listing = fs.glob(root, detail=True) if pattern else fs.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"{source}: {error}") from error
    if pattern:
        root = posixpath.dirname(root.split("*")[0].split("?")[0].split("[")[0])
    elif list(listing) == [root]:
        root = posixpath.dirname(root)
    if not listing:
        raise SourceError(f"{source}: nothing is there")
    shards, loose = list[Shard](), list[tuple[str, str, int]]()
    for path, facts in sorted(listing.items()):
        relative = posixpath.relpath(path, root) if root else path
        # fsspec calls a link to a file "other"; caches of datasets are full of such links.
        is_file = facts.get("type", "file") == "file" or facts.get("islink", False)
        if not is_file or any(part.startswith((".", "_")) for part in relative.split("/")):
            continue
        size = int(facts.get("size") or 0)
        base, kind = split_suffix(relative)
        if kind in ("tar", "parquet"):
            shards.append(
                (Tar if kind == "tar" else Parquet)(fs, base, path, size, str(size), options)
            )
        elif kind in SUFFIXES:
            loose.append((base, path, size))
    for number, start in enumerate(range(0, len(loose), FOLDER_SHARD_IMAGES)):
        shards.append(
            Folder(
                fs,
                root,
                f"images-{number:05d}",
                loose[start : start + FOLDER_SHARD_IMAGES],
                options,
            )
        )
    if not shards:
        raise SourceError(
            f"{source}: no images there: no .tar, no .parquet and no file with an image suffix"
        )
    name, times = Counter(shard.name for shard in shards).most_common(1)[0]
    if times > 1:
        raise SourceError(
            f"{source}: two token shards would be named {name}: rename one, or tokenize them apart"
        )
    return Listing(shards)
