"""A run: shards side by side, each read, tokenized, written and entered into the ledger."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from channeltok._messages import TokenizerInfo
from channeltok.datasets.destination import Destination, Entry, Manifest, Reject
from channeltok.datasets.length_stats import Lengths
from channeltok.datasets.shard import Engine, Job, patiently
from channeltok.datasets.sources import Shard, SourceError, find_shards
from channeltok.quality import Quality

if TYPE_CHECKING:  # Ray is an extra
    from channeltok.datasets.on_ray import Cluster

AT_ONCE = 2  # shards: one is drained, read or written while the other keeps the engine busy


class TooManyRejects(Exception):
    """More images were refused than the run may leave out. What is finished stays; a higher limit goes on from there."""


class ShardFailed(Exception):
    """Shards could not be finished; all others are. Running again tries them again."""


@dataclass
class Summary:
    """What a run did. images, rejects: of all shards, those of earlier runs too. seconds: this run's. new_images: this run's rows.

    failed: source shard -> why. lengths: where a quality decides k, what came of it (see Lengths.told).
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


class Watcher:
    """Is told how a run goes, from several threads; this one tells nobody."""

    def begin(self, shards: int, done_before: int, source_bytes: int) -> None:
        """Of `shards`, `done_before` were done by earlier runs; source_bytes: of the others."""

    def advance(self, shard: Shard, source_bytes: int, images: int, rejects: int) -> None:
        """So many more of the shard's bytes, tokenized images and rejects."""

    def finish(self, shard: Shard, rows: int, rejects: int) -> None:
        """A shard is in its place."""

    def fail(self, shard: Shard, why: str, again: bool) -> None:
        """An attempt at a shard came to nothing. again: there will be another."""


def tokenize(
    source: str,
    destination: str,
    engines: Sequence[Engine],
    *,
    k: int | None = None,
    quality: Quality | None = None,
    tokenizer: str | None = None,
    container: str = "parquet",
    max_rejects: int | None = None,
    watcher: Watcher | None = None,
    cluster: "Cluster | None" = None,
) -> Summary:
    """Every image of `source` to its first k tokens in `destination`, both paths or URLs; goes on where an earlier run stopped.

    engines: shards are spread over them. k: None for all tokens. quality: instead of k, decides it image by image.
    container: "parquet" or "webdataset". max_rejects: images that may have no tokens; None for any number.
    cluster: a Ray cluster whose workers, with engines of their own, do the shards; `engines` then only tell which tokenizer it is.

    Raises SourceError, DestinationMismatch, TooManyRejects, ShardFailed, ChannelTokError (the engine cannot be asked at all), and ValueError for
    a k or a tokenizer that the engine does not have, and for a k beside a quality.
    """
    started = time.monotonic()
    shards = find_shards(source)
    info = _chosen(engines, tokenizer)
    if quality is not None and k is not None:
        raise ValueError(
            "k says how many tokens to keep, and so does a quality: ask for one of them"
        )
    if quality is None and k is None:
        k = info.max_tokens
    if k is not None and not 1 <= k <= info.max_tokens:
        raise ValueError(f"k is 1 to {info.max_tokens} for tokenizer {info.name!r}, not {k}")
    asked = None if quality is None else str(quality)
    place = Destination(destination, Manifest(info.name, info.fingerprint, k, container, asked))
    watcher = watcher or Watcher()
    run = _Run(Job(place, info, k, container, quality), max_rejects, watcher)
    summary = Summary(info.name, info.fingerprint, k, asked, len(shards))
    left = []
    for shard in shards:
        entry = place.entry(shard.name)
        if entry is None:
            left.append(shard)
        elif entry.identity != shard.identity:
            raise SourceError(
                f"{shard.path} is not what it was when {shard.name} was made of it: put it back, or tokenize into another folder"
            )
        else:
            summary.done_before += 1
            run.count(entry)
    watcher.begin(len(shards), summary.done_before, sum(shard.size for shard in left))
    try:
        if cluster is None:
            run.work(left, engines)
        elif left:
            run.work_on(cluster, left)
    finally:
        summary.images, summary.new_images = run.images, run.new_images
        rejects = run.all_rejects()
        summary.rejects, summary.failed, summary.lengths = (
            len(rejects),
            run.failed,
            run.lengths.told(),
        )
        summary.seconds = time.monotonic() - started
        place.conclude(
            sorted(rejects, key=lambda reject: (reject.source, reject.offset)), asdict(summary)
        )
    if run.failed:
        first = next(iter(run.failed.items()))
        raise ShardFailed(
            f"{len(run.failed)} of {len(shards)} shards are not done; {first[0]}: {first[1]}"
        )
    return summary


class _Run:
    """What the threads of a run share."""

    def __init__(self, job: Job, max_rejects: int | None, watcher: Watcher) -> None:
        self.images = self.new_images = 0
        self.rejects: list[Reject] = []
        self.failed: dict[str, str] = {}
        self.lengths = Lengths()
        self._job, self._max_rejects, self._watcher = job, max_rejects, watcher
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._under_way: dict[
            str, list[Reject]
        ] = {}  # shards that are not done -> their rejects so far

    def count(self, entry: Entry) -> None:
        """A shard that is done."""
        self.images += entry.rows
        self.rejects += entry.rejects
        if entry.lengths is not None:
            self.lengths.merge(entry.lengths)

    def all_rejects(self) -> list[Reject]:
        """Those of shards that are not done too."""
        with self._lock:
            return [*self.rejects, *chain.from_iterable(self._under_way.values())]

    def work(self, shards: list[Shard], engines: Sequence[Engine]) -> None:
        """Do them, AT_ONCE for each engine. Raises TooManyRejects."""
        self._check_rejects()
        with ThreadPoolExecutor(AT_ONCE * len(engines), thread_name_prefix="shard") as pool:
            running = {
                pool.submit(self._one, shard, engines, number)
                for number, shard in enumerate(shards)
            }
            try:
                for future in as_completed(running):
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def work_on(self, cluster: "Cluster", shards: list[Shard]) -> None:
        """The same on a Ray cluster."""
        self._check_rejects()
        for shard, entry, why in cluster.done(shards, self._job):
            if entry is None:
                self._watcher.fail(shard, why, again=False)
                self.failed[shard.path] = why
            else:
                self._watcher.advance(shard, shard.size, entry.rows, len(entry.rejects))
                self._finished(shard, entry)
                self._check_rejects()

    def _one(self, shard: Shard, engines: Sequence[Engine], number: int) -> None:
        entry, why = patiently(
            lambda attempt: self._do(shard, engines[(number + attempt) % len(engines)]),
            lambda why, again: self._watcher.fail(shard, why, again),
            self._stop.wait,
        )
        if entry is None:
            self.failed[shard.path] = why
        else:
            self._finished(shard, entry)

    def _finished(self, shard: Shard, entry: Entry) -> None:
        with self._lock:
            self._under_way.pop(shard.name, None)
            self.count(entry)
            self.new_images += entry.rows
        self._watcher.finish(shard, entry.rows, len(entry.rejects))

    def _do(self, shard: Shard, engine: Engine) -> Entry:
        def each(source_bytes: int, reject: Reject | None) -> None:
            if self._stop.is_set():
                raise _Stopped
            self._watcher.advance(shard, source_bytes, int(reject is None), int(reject is not None))
            if reject is not None:
                with self._lock:
                    self._under_way[shard.name].append(reject)
                self._check_rejects()

        with self._lock:
            self._under_way[shard.name] = []
        return self._job.do(shard, engine, each)

    def _check_rejects(self) -> None:
        with self._lock:
            count = len(self.rejects) + sum(map(len, self._under_way.values()))
        if self._max_rejects is not None and count > self._max_rejects:
            rejects = self.all_rejects()
            last = f"{rejects[-1].key} in {rejects[-1].source}: {rejects[-1].reason}"
            raise TooManyRejects(
                f"{len(rejects)} images were refused, and {self._max_rejects} are allowed; the last one: {last}"
            )


class _Stopped(Exception):
    """The run ends for a cause that another thread tells."""


def _chosen(engines: Sequence[Engine], name: str | None) -> TokenizerInfo:
    choices = []
    for engine in engines:
        served = engine.tokenizers()
        found = next((info for info in served if name in (None, info.name)), None)
        if found is None:
            raise ValueError(
                f"no tokenizer is called {name!r}; there are: {', '.join(info.name for info in served) or 'none'}"
            )
        choices.append(found)
    if different := {info.fingerprint for info in choices} - {choices[0].fingerprint}:
        first = choices[0]
        raise ValueError(
            f"the engines differ: tokenizer {first.name!r} is {first.fingerprint} in one and {min(different)} in another"
        )
    return choices[0]
