"""What a person or a log sees of a run."""

import sys
import threading
import time
from typing import Self

from tqdm import tqdm

from channeltok.datasets.run import Watcher
from channeltok.datasets.sources import Shard

LINE_SECONDS = 30.0  # between lines of progress where nobody watches a terminal


class Meter(Watcher):
    """A bar on a terminal; elsewhere a line for each finished shard and one in between every `LINE_SECONDS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[None] | None = None
        self._shards = self._done = self._images = self._rejects = 0
        self._seen: dict[str, int] = {}  # shard -> bytes of it that the bar has
        self._started = self._told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, shards: int, done_before: int, source_bytes: int) -> None:
        """See Watcher."""
        self._shards, self._done = shards, done_before
        self._started = self._told = time.monotonic()
        self._bar = tqdm(
            total=source_bytes,
            unit="B",
            unit_scale=True,
            disable=not self._terminal,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left, {postfix}",
        )
        if done_before:
            self._line(f"{done_before} of {shards} shards were done before")

    def advance(self, shard: Shard, source_bytes: int, images: int, rejects: int) -> None:
        """See Watcher."""
        with self._lock:
            self._images += images
            self._rejects += rejects
            self._fill(shard, min(shard.size, self._seen.get(shard.name, 0) + source_bytes))
            if not self._terminal and time.monotonic() - self._told > LINE_SECONDS:
                self._line(self._state())

    def finish(self, shard: Shard, rows: int, rejects: int) -> None:
        """See Watcher."""
        with self._lock:
            self._done += 1
            self._fill(shard, shard.size)
            if not self._terminal:
                self._line(f"{shard.name}: {rows} images, {rejects} rejects; {self._state()}")

    def fail(self, shard: Shard, why: str, again: bool) -> None:
        """See Watcher."""
        with self._lock:
            self._fill(shard, 0)
            self._line(f"{shard.name}: {why}; {'trying again' if again else 'given up'}")

    def _fill(self, shard: Shard, seen: int) -> None:
        assert self._bar is not None
        self._bar.set_postfix_str(self._state(), refresh=False)
        self._bar.update(seen - self._seen.get(shard.name, 0))
        self._seen[shard.name] = seen

    def _state(self) -> str:
        rate = self._images / max(time.monotonic() - self._started, 1e-9)
        return f"{self._images:,} images, {rate:.0f}/s, {self._rejects} rejects, {self._done} of {self._shards} shards"

    def _line(self, text: str) -> None:
        self._told = time.monotonic()
        tqdm.write(text, file=sys.stderr)
