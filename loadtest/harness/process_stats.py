"""Memory, file handles, threads and CPU time of a service's processes, children included."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import TypeVar

import psutil

IDLE_THREAD_SECONDS = 25.0  # gRPC's pool keeps an idle thread for 20 s
# gRPC adds a timer thread whenever all are busy, and keeps it, so their number is not a leak.
TIMER_THREAD = "grpc_global_tim"

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """Sums over all processes.

    memory: resident bytes. handles: open file descriptors, including sockets. threads: without
    gRPC's timers. processes: their number.
    """

    memory: int = 0
    handles: int = 0
    threads: int = 0
    processes: int = 0

    def growth_since(self, other: "Reading") -> dict[str, float]:
        """Relative growth of each figure since `other`: 0.05 is 5 % more."""
        return {
            field.name: getattr(self, field.name) / max(1, getattr(other, field.name)) - 1
            for field in fields(self)
        }


def read(pid: int) -> Reading:
    """Read `pid` and its descendants. psutil.NoSuchProcess if `pid` itself has ended."""
    readings = _each(
        pid,
        lambda process: (
            process.memory_info().rss,
            process.num_fds(),
            sum(_threads(process).values()),
            1,
        ),
    )
    return Reading(*(sum(column) for column in zip(*readings, strict=True)))


def cpu(pid: int) -> dict[str, float]:
    """CPU seconds so far of the gateway (with all its workers), tritonserver and engines."""
    seconds = {"gateway": 0.0, "tritonserver": 0.0, "engine processes": 0.0}
    for kind, used in _each(pid, lambda process: (_kind(process), _cpu_seconds(process))):
        seconds[kind] += used
    return seconds


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _kind(process: psutil.Process) -> str:
    name = process.name()
    if name.startswith("triton_python"):
        return "engine processes"
    return "tritonserver" if name == "tritonserver" else "gateway"


class Noise:
    """CPU time used by others: programs outside this process tree, and other tenants (steal)."""

    def __init__(self) -> None:
        self._at, self._foreign = time.perf_counter(), self._read()

    def since(self) -> float:
        """Average cores since the last call. Children that ended meanwhile count as others."""
        now, foreign = time.perf_counter(), self._read()
        cores = (foreign - self._foreign) / (now - self._at)
        self._at, self._foreign = now, foreign
        return max(0.0, cores)

    @staticmethod
    def _read() -> float:
        machine = psutil.cpu_times()
        ours = sum(_each(os.getpid(), _cpu_seconds))
        kinds = ("user", "nice", "system", "irq", "softirq", "steal")
        return float(sum(getattr(machine, kind) for kind in kinds) - ours)


def thread_names(pid: int) -> Counter[str]:
    """Threads by `process:thread`, as the kernel names them; the same threads as in `read`."""
    return Counter(chain.from_iterable(names.elements() for names in _each(pid, _threads)))


def _each(pid: int, read: Callable[[psutil.Process], T]) -> list[T]:
    """Apply `read` to `pid` and its descendants, skipping descendants that end meanwhile."""
    root = psutil.Process(pid)
    results = []
    for process in (root, *root.children(recursive=True)):
        try:
            with process.oneshot():
                results.append(read(process))
        except (
            psutil.NoSuchProcess,
            psutil.ZombieProcess,
            psutil.AccessDenied,
            FileNotFoundError,
            ProcessLookupError,
        ):
            if process == root:
                raise
    return results


def _threads(process: psutil.Process) -> Counter[str]:
    names = (name.read_text().strip() for name in Path(f"/proc/{process.pid}/task").glob("*/comm"))
    return Counter(f"{process.name()}:{name}" for name in names if name != TIMER_THREAD)


class Peak:
    """Largest resident memory so far, in bytes."""

    memory: int = 0


@contextmanager
def watched(pid: int, every: float = 0.1) -> Iterator[Peak]:
    """Track peak memory in a thread, reading `every` seconds; yields the Peak, which it updates."""
    peak, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                peak.memory = max(
                    peak.memory, sum(_each(pid, lambda process: process.memory_info().rss))
                )
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


def settled(pid: int, seconds: float = 10.0, back_to: Reading | None = None) -> Reading:
    """The smallest figures within `seconds`, when connections are closed and buffers released.

    back_to: an earlier reading; while handles or threads exceed it, wait up to IDLE_THREAD_SECONDS
    longer.
    """
    deadline = time.monotonic() + seconds
    last = deadline + IDLE_THREAD_SECONDS
    least = read(pid)
    while (now := time.monotonic()) < deadline or (
        back_to is not None and _above(least, back_to) and now < last
    ):
        time.sleep(0.5)
        latest = read(pid)
        least = Reading(
            *(min(getattr(row, field.name) for row in (least, latest)) for field in fields(Reading))
        )
    return least


def _above(reading: Reading, other: Reading) -> bool:
    return reading.handles > other.handles or reading.threads > other.threads
