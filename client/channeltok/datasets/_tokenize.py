"""Tokenize a dataset: shards side by side, each read, tokenized, written and put in the ledger."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from channeltok.datasets import reject_limit
from channeltok.datasets.destination import Destination, Manifest, recorded_cut_of
from channeltok.datasets.engine_choice import choose_tokenizer
from channeltok.datasets.errors import (
    DatasetError,
    DestinationError,
    ShardFailed,
    SourceError,
)
from channeltok.datasets.explained import explained
from channeltok.datasets.ledger import Entry
from channeltok.datasets.part import Part
from channeltok.datasets.progress import ProgressListener
from channeltok.datasets.reject_limit import RejectLimit
from channeltok.datasets.retries import PATIENCE_SECONDS, Patience
from channeltok.datasets.run import Run
from channeltok.datasets.shard import Engine, ShardTokenizer
from channeltok.datasets.sources import Shard, SourceOptions, find_shards
from channeltok.fit import Fit, check_fit
from channeltok.quality import K_AND_QUALITY, Quality

if TYPE_CHECKING:  # Ray is an extra
    from channeltok.datasets.on_ray import Cluster


@dataclass
class Summary:
    """Result of a run.

    Attributes:
        tokenizer: name of the tokenizer.
        fingerprint: of the tokenizer's training.
        k: tokens per image; None where a quality chose.
        quality: the quality, as text.
        shards: number of shards of the source, or of the part.
        done_before: how many of them earlier runs finished.
        images: tokenized images of all finished shards.
        new_images: how many of them this run tokenized.
        rejects: images without tokens, of all shards.
        seconds: duration of this run.
        failed: source shard -> why it could not be finished.
        skipped: kind of things in the source that were passed by -> their number.
        lengths: where a quality chose k, see `LengthStats.summary`; else empty.
    """

    tokenizer: str
    fingerprint: str
    k: int | None
    quality: str | None
    shards: int
    done_before: int = 0
    images: int = 0
    new_images: int = 0
    rejects: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)


def tokenize(
    source: str | Sequence[str],
    destination: str,
    engines: Sequence[Engine],
    *,
    k: int | None = None,
    quality: Quality | None = None,
    fit: Fit = "crop",
    tokenizer: str | None = None,
    container: str = "parquet",
    max_rejects: int | str = reject_limit.DEFAULT,
    retry_rejects: bool = False,
    patience: float = PATIENCE_SECONDS,
    part: str | None = None,
    source_options: SourceOptions | None = None,
    views: int = 0,
    seed: int = 0,
    listener: ProgressListener | None = None,
    cluster: "Cluster | None" = None,
) -> Summary:
    """Tokenize every image of `source` into token shards; continues where an earlier run stopped.

    Args:
        source: a folder, a tar, a Parquet file, or a pattern of them with * ? [] or {}; a path or a
            URL; or several of these.
        destination: a folder for the token shards; a path or a URL.
        engines: clients, or engines in this process; the shards are spread over them.
        k: tokens per image, 1 to the tokenizer's max_tokens; None for all.
        quality: chooses k for each image, instead of `k`.
        fit: what part of each image the tokenizer sees, see `Client.encode`.
        tokenizer: name of the tokenizer; None for the default.
        container: "parquet" or "webdataset".
        max_rejects: how many images may fail: a share of each shard, "50%", above which the shard
            fails; or a number, above which the run ends. "100%" for any number.
        retry_rejects: make shards again that have rejects.
        patience: seconds, above 0. When the engines have answered nobody for so long, the run ends.
        part: "I/N", 1 <= I <= N: only every N-th shard, from the I-th. N machines with the same
            source, each with another I, never do the same shard.
        source_options: what is read of the source: columns to keep, and names of columns.
        views: how many random views of each image are tokenized, a row each: crops, half of them
            mirrored. 0 for the image itself. The keys are KEY@1, KEY@2, ...
        seed: of the views: the same seed, the same views.
        listener: receives the progress.
        cluster: a Ray cluster that tokenizes the shards with engines of its own; `engines` then
            only say which tokenizer is meant.

    Returns:
        What was done, by this run and earlier ones.

    Raises:
        SourceError: the source cannot be read, or nothing in it could be.
        DestinationMismatch: the destination holds tokens made with other parameters.
        DestinationError: the destination cannot be read or written; at once, also on the way.
        TooManyRejects: more images failed than the number `max_rejects`.
        EngineGone: the engines answered nobody for longer than `patience`.
        ShardFailed: shards could not be finished, even with retries, or changed afterwards.
        ChannelTokError: the engines cannot be reached to begin with, or `fit` is none.
        ValueError: the engines lack this k or tokenizer, both `k` and `quality` are set,
            `max_rejects`, `patience`, `part` or `views` is none, or views lack a package.
        KeyboardInterrupt: as it came, with a message on what is done.
    """
    started = time.monotonic()
    limit, waiting = RejectLimit.parse(max_rejects), Patience(patience)
    share = None if part is None else Part.parse(part)
    _check_views(views)
    info = choose_tokenizer(engines, tokenizer)
    options = replace(source_options or SourceOptions(), exclude=destination)
    with explained(DestinationError, destination):
        recorded = recorded_cut_of(destination)
    with explained(SourceError, _name(source)):
        listing = find_shards(source, options, recorded)
    shards = listing.shards if share is None else share.of(listing.shards)
    if quality is not None and k is not None:
        raise ValueError(K_AND_QUALITY)
    if quality is None and k is None:
        k = info.max_tokens
    if k is not None and not 1 <= k <= info.max_tokens:
        raise ValueError(f"k is 1 to {info.max_tokens} for tokenizer {info.name!r}, not {k}")
    quality_text = None if quality is None else str(quality)
    manifest = Manifest(
        info.name,
        info.fingerprint,
        k,
        container,
        quality_text,
        fit=check_fit(fit),
        views=views,
        seed=seed if views else 0,
        **options.manifest(),
    )
    with explained(DestinationError, destination):
        target = Destination(destination, manifest)
        entries = target.entries()
    if listing.new_cut:
        target.record_cut(listing.new_cut, recorded.times)
    listener = listener or ProgressListener()
    shard_tokenizer = ShardTokenizer(
        target, info, k, container, quality, fit, options.keep, limit, views, manifest.seed
    )
    run = Run(shard_tokenizer, limit, waiting, listener)
    summary = Summary(info.name, info.fingerprint, k, quality_text, len(shards))
    run.skipped.update(listing.skipped)
    otherwise = listing.cut_otherwise({name: entry.source for name, entry in entries.items()})
    remaining, changed = _remaining(shards, entries, otherwise, run, retry_rejects)
    summary.done_before = len(shards) - len(remaining) - len(changed)
    listener.begin(len(shards), summary.done_before, sum(shard.size for shard in remaining))
    for shard in changed:
        run.give_up(
            shard,
            f"it has changed since {shard.name} was made of it: restore it, or tokenize into "
            "another folder",
        )

    def conclude() -> None:
        rejects = run.all_rejects()
        summary.images, summary.new_images = run.images, run.new_images
        summary.rejects, summary.failed = len(rejects), run.failed
        summary.lengths = run.lengths.summary()
        summary.skipped = dict(sorted(run.skipped.items()))
        summary.seconds = time.monotonic() - started
        parts = None if share is None else (share.i, share.n)
        target.conclude(rejects, asdict(summary), parts)
        target.write_index(run.entries, run.finished)

    try:
        if cluster is None:
            run.tokenize(remaining, engines)
        elif remaining:
            run.tokenize_on(cluster, remaining)
    except BaseException as error:
        target.abandon()
        with suppress(DatasetError, ValueError):  # a full disk has no room for a summary
            conclude()
        done = f"{summary.done_before + run.finished} of {len(shards)} shards are done"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted; {done}, the same command continues") from None
        if isinstance(error, DatasetError):
            raise type(error)(f"{error}; {done}") from error
        raise
    conclude()
    if run.failed:
        path, reason = next(iter(run.failed.items()))
        what = reason if reason.startswith(path) else f"{path}: {reason}"
        raise ShardFailed(f"{len(run.failed)} of {len(shards)} shards are not done; {what}")
    if not run.images and not summary.rejects and share is None:
        raise SourceError(f"{_name(source)}: no images in any of its {len(shards)} shards")
    return summary


def _remaining(
    shards: Sequence[Shard],
    entries: dict[str, Entry],
    otherwise: set[str],
    run: Run,
    retry_rejects: bool,
) -> tuple[list[Shard], list[Shard]]:
    """The shards that are not finished, and those that changed afterwards; counts the others."""
    remaining, changed = list[Shard](), list[Shard]()
    for shard in shards:
        entry = entries.get(shard.name)
        if shard.name in otherwise:
            changed.append(shard)
        elif entry is None or (retry_rejects and entry.rejects):
            remaining.append(shard)
        elif entry.identity != shard.identity:
            changed.append(shard)
        else:
            run.count(shard.name, entry)
    return remaining, changed


def _check_views(views: int) -> None:
    if views < 0:
        raise ValueError(f"views is 0 or more, not {views}")
    if views:
        try:
            from channeltok.local import random_views  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"views need more packages: pip install 'channeltok[batch,local]' ({error})"
            ) from error


def _name(source: str | Sequence[str]) -> str:
    return source if isinstance(source, str) else ", ".join(source)
