"""A run: threads that tokenize shard after shard, and one that watches them."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from channeltok.datasets.engine_choice import EngineChoice
from channeltok.datasets.errors import DestinationError, TooManyRejects
from channeltok.datasets.ledger import Entry, Reject
from channeltok.datasets.length_stats import LengthStats
from channeltok.datasets.progress import ProgressListener
from channeltok.datasets.reject_limit import RejectLimit
from channeltok.datasets.retries import Patience, judge
from channeltok.datasets.shard import Engine, ShardTokenizer
from channeltok.datasets.shard_queue import Job, ShardQueue
from channeltok.datasets.sources import Shard, Skipped
from channeltok.errors import ChannelTokError

if TYPE_CHECKING:  # Ray is an extra
    from channeltok.datasets.on_ray import Cluster

SHARDS_PER_ENGINE = 2  # one is read, drained or written while the other keeps the engine busy
WATCH_SECONDS = 0.5
REPORT_SILENCE_SECONDS = 10.0  # of the engine, before the listener is called; then again, as often
INDEX_EVERY = 1000  # finished shards
GRACE_SECONDS = 3.0  # for threads to end by themselves; then they end with the process


class Run:
    """State that the threads of a run share.

    Attributes:
        images: tokenized images of all finished shards.
        new_images: how many of them this run tokenized.
        failed: path of a source shard -> why it could not be finished.
        entries: name -> ledger entry of each finished shard.
        finished: number of shards that this run finished.
        lengths: of all finished shards, where a quality chose k.
        skipped: what was passed by in all finished shards.
    """

    def __init__(
        self,
        tokenizer: ShardTokenizer,
        limit: RejectLimit,
        patience: Patience,
        listener: ProgressListener,
    ) -> None:
        self.images = self.new_images = self.finished = 0
        self.entries: dict[str, Entry] = {}
        self.failed: dict[str, str] = {}
        self.lengths = LengthStats()
        self.skipped: Skipped = Counter()
        self._rejects: list[Reject] = []
        self._tokenizer, self._limit, self._listener = tokenizer, limit, listener
        self._patience = patience
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended_by: Exception | None = None  # the error of a thread that ends the run
        self._unfinished: dict[str, list[Reject]] = {}  # shard name -> its rejects so far
        self._indexed = 0  # finished shards of this run that are in the index

    def count(self, name: str, entry: Entry) -> None:
        """Add a finished shard to the totals."""
        self.entries[name] = entry
        self.images += entry.rows
        self._rejects += entry.rejects
        self.skipped.update(entry.skipped)
        if entry.lengths is not None:
            self.lengths.merge(entry.lengths)

    def give_up(self, shard: Shard, reason: str) -> None:
        """A shard that cannot be finished."""
        self.failed[shard.path] = reason
        self._listener.fail(shard, reason, retrying=False)

    def all_rejects(self) -> list[Reject]:
        """Rejects of finished and unfinished shards, by place in the source."""
        with self._lock:
            rejects = [*self._rejects, *chain.from_iterable(self._unfinished.values())]
        return sorted(rejects, key=lambda reject: (reject.source, reject.offset))

    def tokenize(self, shards: Sequence[Shard], engines: Sequence[Engine]) -> None:
        """Tokenize shards in threads, SHARDS_PER_ENGINE at once per engine.

        Raises:
            TooManyRejects, EngineGone, DestinationError: the run ends here.
        """
        self._check_rejects()
        jobs, choice = ShardQueue(shards), EngineChoice(engines)
        threads = [
            threading.Thread(target=self._work, args=(jobs, choice), name="shard", daemon=True)
            for _ in range(min(len(shards), SHARDS_PER_ENGINE * len(engines)))
        ]
        try:
            for thread in threads:
                thread.start()
            self._watch(jobs)
        finally:
            self._stop.set()
            jobs.stop()
            deadline = time.monotonic() + GRACE_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def tokenize_on(self, cluster: "Cluster", shards: Sequence[Shard]) -> None:
        """Tokenize shards on a Ray cluster. Raises as `tokenize`."""
        self._check_rejects()
        for shard, entry, reason in cluster.tokenize(
            shards, self._tokenizer, self._patience.seconds
        ):
            if entry is None:
                self.give_up(shard, reason)
            else:
                self._listener.advance(shard, shard.size, entry.rows, len(entry.rejects))
                self._finish(shard, entry)
                self._check_rejects()
                self._write_index()

    def _write_index(self) -> None:
        """Now and then, so that a run that follows a kill starts soon, too."""
        if self.finished < self._indexed + INDEX_EVERY:
            return
        self._indexed = self.finished
        with self._lock:
            entries = dict(self.entries)
        self._tokenizer.destination.write_index(entries, self.finished)

    def _watch(self, jobs: ShardQueue) -> None:
        reported = 0.0
        while not jobs.wait_until_settled(WATCH_SECONDS):
            self._write_index()
            silence = self._patience.check()
            if silence < REPORT_SILENCE_SECONDS:
                reported = 0.0
            elif silence > reported + REPORT_SILENCE_SECONDS:
                reported = silence
                self._listener.wait(silence, self._patience.seconds)
        if self._ended_by is not None:
            raise self._ended_by

    def _work(self, jobs: ShardQueue, engines: EngineChoice) -> None:
        while (job := jobs.take()) is not None:
            try:
                self._try(job, jobs, engines)
            except Exception as error:  # TooManyRejects of the run, DestinationError
                if not self._stop.is_set():
                    self._ended_by = error
                    self._stop.set()
                jobs.stop()

    def _try(self, job: Job, jobs: ShardQueue, engines: EngineChoice) -> None:
        shard, answers = job.shard, self._patience.answers
        engine = engines.choose(job.number + job.attempt)
        try:
            entry = self._attempt(shard, engines[engine])
        except DestinationError:
            raise
        except Exception as error:
            if self._stop.is_set():
                return
            if isinstance(error, TooManyRejects) and self._limit.count is not None:
                raise  # of the run, and not of this shard
            if isinstance(error, ChannelTokError):
                engines.failed(engine)
            verdict = judge(error, job.attempt, answers, self._patience)
            if verdict.retry:
                self._listener.fail(shard, verdict.reason, retrying=True)
                job.attempt += verdict.counts
                jobs.put_back(job, verdict.delay, verdict.all_wait)
                return
            self.give_up(shard, verdict.reason)
        else:
            self._finish(shard, entry)
        jobs.settle()

    def _finish(self, shard: Shard, entry: Entry) -> None:
        with self._lock:
            self._unfinished.pop(shard.name, None)
            self.count(shard.name, entry)
            self.new_images += entry.rows
            self.finished += 1
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
        return self._tokenizer.run(shard, engine, self._patience, on_image)

    def _check_rejects(self) -> None:
        if self._limit.count is None:
            return
        with self._lock:
            count = len(self._rejects) + sum(map(len, self._unfinished.values()))
        if count > self._limit.count:
            self._limit.check_run(self.all_rejects())


class _Stopped(Exception):
    """Ends a shard because another thread has failed; that thread raises the cause."""
