"""Tokenize a dataset: shards side by side, each read, tokenized, written and put in the ledger."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from channeltok._messages import TokenizerInfo
from channeltok.datasets.destination import Destination, Entry, Manifest, Reject
from channeltok.datasets.errors import ShardFailed, SourceError, TooManyRejects
from channeltok.datasets.length_stats import LengthStats
from channeltok.datasets.progress import ProgressListener
from channeltok.datasets.shard import Engine, ShardTokenizer, with_retries
from channeltok.datasets.sources import Shard, find_shards
from channeltok.fit import Fit, check_fit
from channeltok.quality import K_AND_QUALITY, Quality

if TYPE_CHECKING:  # Ray is an extra
    from channeltok.datasets.on_ray import Cluster

SHARDS_PER_ENGINE = 2  # one is read, drained or written while the other keeps the engine busy


@dataclass
class Summary:
    """Result of a run.

    Attributes:
        tokenizer: name of the tokenizer.
        fingerprint: of the tokenizer's training.
        k: tokens per image; None where a quality chose.
        quality: the quality, as text.
        shards: number of shards of the source.
        done_before: how many of them earlier runs finished.
        images: tokenized images of all finished shards.
        new_images: how many of them this run tokenized.
        rejects: images without tokens, of all shards.
        seconds: duration of this run.
        failed: source shard -> why it could not be finished.
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


def tokenize(
    source: str,
    destination: str,
    engines: Sequence[Engine],
    *,
    k: int | None = None,
    quality: Quality | None = None,
    fit: Fit = "crop",
    tokenizer: str | None = None,
    container: str = "parquet",
    max_rejects: int | None = None,
    listener: ProgressListener | None = None,
    cluster: "Cluster | None" = None,
) -> Summary:
    """Tokenize every image of `source` into token shards; continues where an earlier run stopped.

    Args:
        source: a folder, a tar, a Parquet file, or a glob of them; a path or a URL.
        destination: a folder for the token shards; a path or a URL.
        engines: clients, or engines in this process; the shards are spread over them.
        k: tokens per image, 1 to the tokenizer's max_tokens; None for all.
        quality: chooses k for each image, instead of `k`.
        fit: what part of each image the tokenizer sees, see `Client.encode`.
        tokenizer: name of the tokenizer; None for the default.
        container: "parquet" or "webdataset".
        max_rejects: how many images may fail; None for any number.
        listener: receives the progress.
        cluster: a Ray cluster that tokenizes the shards with engines of its own; `engines` then
            only say which tokenizer is meant.

    Returns:
        What was done, by this run and earlier ones.

    Raises:
        SourceError: the source cannot be read, or a finished shard of it has changed.
        DestinationMismatch: the destination holds tokens made with other parameters.
        TooManyRejects: more images failed than `max_rejects`.
        ShardFailed: shards could not be finished, even with retries.
        ChannelTokError: the engines cannot be reached to begin with, or `fit` is none.
        ValueError: the engines lack this k or tokenizer, or both `k` and `quality` are set.
    """
    started = time.monotonic()
    shards = find_shards(source).shards
    info = _choose_tokenizer(engines, tokenizer)
    if quality is not None and k is not None:
        raise ValueError(K_AND_QUALITY)
    if quality is None and k is None:
        k = info.max_tokens
    if k is not None and not 1 <= k <= info.max_tokens:
        raise ValueError(f"k is 1 to {info.max_tokens} for tokenizer {info.name!r}, not {k}")
    quality_text = None if quality is None else str(quality)
    manifest = Manifest(info.name, info.fingerprint, k, container, quality_text, fit=check_fit(fit))
    target = Destination(destination, manifest)
    listener = listener or ProgressListener()
    run = _Run(ShardTokenizer(target, info, k, container, quality, fit), max_rejects, listener)
    summary = Summary(info.name, info.fingerprint, k, quality_text, len(shards))
    remaining = []
    for shard in shards:
        entry = target.entry(shard.name)
        if entry is None:
            remaining.append(shard)
        elif entry.identity != shard.identity:
            raise SourceError(
                f"{shard.path} has changed since {shard.name} was made of it: restore it, "
                "or tokenize into another folder"
            )
        else:
            summary.done_before += 1
            run.count(entry)
    listener.begin(len(shards), summary.done_before, sum(shard.size for shard in remaining))
    try:
        if cluster is None:
            run.tokenize(remaining, engines)
        elif remaining:
            run.tokenize_on(cluster, remaining)
    finally:
        rejects = run.all_rejects()
        summary.images, summary.new_images = run.images, run.new_images
        summary.rejects, summary.failed = len(rejects), run.failed
        summary.lengths = run.lengths.summary()
        summary.seconds = time.monotonic() - started
        rejects.sort(key=lambda reject: (reject.source, reject.offset))
        target.conclude(rejects, asdict(summary))
    if run.failed:
        path, reason = next(iter(run.failed.items()))
        raise ShardFailed(
            f"{len(run.failed)} of {len(shards)} shards are not done; {path}: {reason}"
        )
    return summary


class _Run:
    """State that the threads of a run share."""

    def __init__(
        self, tokenizer: ShardTokenizer, max_rejects: int | None, listener: ProgressListener
    ) -> None:
        self.images = self.new_images = 0
        self.rejects: list[Reject] = []
        self.failed: dict[str, str] = {}
        self.lengths = LengthStats()
        self._tokenizer, self._max_rejects, self._listener = tokenizer, max_rejects, listener
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._unfinished: dict[str, list[Reject]] = {}  # shard name -> its rejects so far

    def count(self, entry: Entry) -> None:
        """Add a finished shard to the totals."""
        self.images += entry.rows
        self.rejects += entry.rejects
        if entry.lengths is not None:
            self.lengths.merge(entry.lengths)

    def all_rejects(self) -> list[Reject]:
        """Rejects of finished and unfinished shards."""
        with self._lock:
            return [*self.rejects, *chain.from_iterable(self._unfinished.values())]

    def tokenize(self, shards: list[Shard], engines: Sequence[Engine]) -> None:
        """Tokenize shards in threads, SHARDS_PER_ENGINE at once per engine.

        Raises TooManyRejects.
        """
        self._check_rejects()
        threads = SHARDS_PER_ENGINE * len(engines)
        with ThreadPoolExecutor(threads, thread_name_prefix="shard") as pool:
            futures = {
                pool.submit(self._tokenize_shard, shard, engines, number)
                for number, shard in enumerate(shards)
            }
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def tokenize_on(self, cluster: "Cluster", shards: list[Shard]) -> None:
        """Tokenize shards on a Ray cluster. Raises TooManyRejects."""
        self._check_rejects()
        for shard, entry, reason in cluster.tokenize(shards, self._tokenizer):
            if entry is None:
                self._listener.fail(shard, reason, retrying=False)
                self.failed[shard.path] = reason
            else:
                self._listener.advance(shard, shard.size, entry.rows, len(entry.rejects))
                self._finish(shard, entry)
                self._check_rejects()

    def _tokenize_shard(self, shard: Shard, engines: Sequence[Engine], number: int) -> None:
        entry, reason = with_retries(
            lambda attempt: self._attempt(shard, engines[(number + attempt) % len(engines)]),
            lambda reason, retrying: self._listener.fail(shard, reason, retrying),
            self._stop.wait,
        )
        if entry is None:
            self.failed[shard.path] = reason
        else:
            self._finish(shard, entry)

    def _finish(self, shard: Shard, entry: Entry) -> None:
        with self._lock:
            self._unfinished.pop(shard.name, None)
            self.count(entry)
            self.new_images += entry.rows
        self._listener.finish(shard, entry.rows, len(entry.rejects))

    def _attempt(self, shard: Shard, engine: Engine) -> Entry:
        def on_image(size: int, reject: Reject | None) -> None:
            if self._stop.is_set():
                raise _Stopped
            self._listener.advance(shard, size, int(reject is None), int(reject is not None))
            if reject is not None:
                with self._lock:
                    self._unfinished[shard.name].append(reject)
                self._check_rejects()

        with self._lock:
            self._unfinished[shard.name] = []
        return self._tokenizer.run(shard, engine, on_image)

    def _check_rejects(self) -> None:
        with self._lock:
            count = len(self.rejects) + sum(map(len, self._unfinished.values()))
        if self._max_rejects is not None and count > self._max_rejects:
            rejects = self.all_rejects()
            last = f"{rejects[-1].key} in {rejects[-1].source}: {rejects[-1].reason}"
            raise TooManyRejects(
                f"{len(rejects)} images were rejected, and {self._max_rejects} are allowed; "
                f"the last one: {last}"
            )


class _Stopped(Exception):
    """Ends a shard because another thread has failed; that thread raises the cause."""


def _choose_tokenizer(engines: Sequence[Engine], name: str | None) -> TokenizerInfo:
    choices = []
    for engine in engines:
        served = engine.tokenizers()
        choice = next((info for info in served if name in (None, info.name)), None)
        if choice is None:
            names = ", ".join(info.name for info in served) or "none"
            raise ValueError(f"no tokenizer is called {name!r}; there are: {names}")
        choices.append(choice)
    first = choices[0]
    if different := {info.fingerprint for info in choices} - {first.fingerprint}:
        raise ValueError(
            f"the engines differ: tokenizer {first.name!r} is {first.fingerprint} in one and "
            f"{min(different)} in another"
        )
    return first
