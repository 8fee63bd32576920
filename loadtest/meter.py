"""What a service takes: memory, file handles and threads of its processes, the children included."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import psutil


@dataclass(frozen=True)
class Reading:
    """memory: resident bytes, summed. handles: open file handles, sockets among them. threads, processes: how many."""

    memory: int = 0
    handles: int = 0
    threads: int = 0
    processes: int = 0

    def grown_over(self, other: "Reading") -> dict[str, float]:
        """Growth of each figure since `other`, as a share of it: 0.05 is 5 % more."""
        return {one.name: getattr(self, one.name) / max(1, getattr(other, one.name)) - 1 for one in fields(self)}


def read(pid: int) -> Reading:
    """A process and all below it. Those that end meanwhile count as nothing; psutil.NoSuchProcess when `pid` itself has ended."""
    root = psutil.Process(pid)
    readings = []
    for process in (root, *root.children(recursive=True)):
        try:
            with process.oneshot():
                readings.append((process.memory_info().rss, process.num_fds(), process.num_threads(), 1))
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            if process == root:
                raise
    return Reading(*(sum(column) for column in zip(*readings, strict=True)))


class Peak:
    """The largest resident memory seen so far, in bytes."""

    memory: int = 0


@contextmanager
def watched(pid: int, every: float = 0.1) -> Iterator[Peak]:
    """Read a service `every` seconds in a thread; the yielded Peak grows meanwhile."""
    peak, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                peak.memory = max(peak.memory, read(pid).memory)
            except psutil.Error:
                return
            stop.wait(every)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def settled(pid: int, seconds: float = 10.0) -> Reading:
    """A reading once connections are closed and buffers given back: the smallest figures seen within `seconds`."""
    deadline = time.monotonic() + seconds
    readings = [read(pid)]
    while time.monotonic() < deadline:
        time.sleep(0.5)
        readings.append(read(pid))
    return Reading(*(min(getattr(one, name.name) for one in readings) for name in fields(Reading)))
