"""Progress of a tokenize run: the listener interface, and a progress bar or log lines on stderr."""

import sys
import threading
import time
from dataclasses import dataclass

from tqdm import tqdm
from typing_extensions import Self

from channeltok.datasets.sources import Shard

LOG_SECONDS = 30.0  # between progress lines where stderr is not a terminal
RETRIES_TOLD = 20  # one by one


class ProgressListener:
    """Receives the progress of `tokenize`, from several threads. Override what you need."""

    def begin(self, shards: int, done_before: int, source_bytes: int) -> None:
        """The run starts.

        Args:
            shards: number of shards of the source.
            done_before: how many of them earlier runs finished.
            source_bytes: size of the others.
        """

    def advance(self, shard: Shard, source_bytes: int, images: int, rejects: int) -> None:
        """More of a shard is done: this many bytes, tokenized images and rejects."""

    def finish(self, shard: Shard, rows: int, rejects: int) -> None:
        """A token shard is in place."""

    def fail(self, shard: Shard, reason: str, retrying: bool) -> None:
        """An attempt at a shard failed; `retrying` says whether another follows."""

    def wait(self, seconds: float, patience: float) -> None:
        """The engine has answered nobody for so many seconds; the run ends after `patience`."""


@dataclass
class _Shown:
    """What the totals hold of an unfinished shard."""

    source_bytes: int = 0
    images: int = 0
    rejects: int = 0


class ProgressBar(ProgressListener):
    """A bar on a terminal; elsewhere a line per shard, and at least one every LOG_SECONDS.

    Both move within a shard. An attempt that fails is taken out of the totals again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[None] | None = None
        self._shards = self._done = self._images = self._rejects = self._retries = 0
        self._bytes = self._all_bytes = 0
        self._shown: dict[str, _Shown] = {}  # by name of the shard
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, shards: int, done_before: int, source_bytes: int) -> None:
        self._shards, self._done, self._all_bytes = shards, done_before, source_bytes
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=source_bytes,
            unit="B",
            unit_scale=True,
            disable=not self._terminal,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left, {postfix}",
        )
        if done_before:
            self._print(f"{done_before} of {shards} shards were done before")

    def advance(self, shard: Shard, source_bytes: int, images: int, rejects: int) -> None:
        with self._lock:
            shown = self._shown.setdefault(shard.name, _Shown())
            shown.images += images
            shown.rejects += rejects
            self._images += images
            self._rejects += rejects
            self._move(shown, min(shard.size, shown.source_bytes + source_bytes))
            if not self._terminal and time.monotonic() - self._last_line > LOG_SECONDS:
                self._print(self._state())

    def finish(self, shard: Shard, rows: int, rejects: int) -> None:
        with self._lock:
            self._done += 1
            self._move(self._shown.pop(shard.name, _Shown()), shard.size)
            if not self._terminal:
                self._print(f"{shard.name}: {rows} images, {rejects} rejects; {self._state()}")

    def fail(self, shard: Shard, reason: str, retrying: bool) -> None:
        with self._lock:
            shown = self._shown.pop(shard.name, _Shown())
            self._images -= shown.images
            self._rejects -= shown.rejects
            self._move(shown, 0)
            self._retries += retrying
            if not retrying:
                self._print(f"{shard.name}: {reason}; given up")
            elif self._retries <= RETRIES_TOLD:
                last = "; more of these are only counted" if self._retries == RETRIES_TOLD else ""
                self._print(f"{shard.name}: {reason}; trying again{last}")

    def wait(self, seconds: float, patience: float) -> None:
        with self._lock:
            self._print(
                f"the engine has not answered for {seconds:.0f} s; "
                f"waiting for it up to {patience:g} s"
            )

    def _move(self, shown: _Shown, source_bytes: int) -> None:
        more, shown.source_bytes = source_bytes - shown.source_bytes, source_bytes
        self._bytes += more
        if self._bar is not None:
            self._bar.set_postfix_str(self._state(), refresh=False)
            self._bar.update(more)

    def _state(self) -> str:
        rate = self._images / max(time.monotonic() - self._started, 1e-9)
        percent = f"{self._bytes / self._all_bytes:.0%}, " if self._all_bytes else ""
        retries = f", {self._retries} retries" if self._retries else ""
        return (
            f"{'' if self._terminal else percent}{self._images:,} images, {rate:.0f}/s, "
            f"{self._rejects} rejects, {self._done} of {self._shards} shards{retries}"
        )

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        tqdm.write(text, file=sys.stderr)
