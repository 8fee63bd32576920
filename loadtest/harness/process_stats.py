"""What a service takes: memory, file handles and threads of its processes, the children included."""

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

IDLE_THREAD_SECONDS = 25.0  # gRPC's pool keeps a thread without work for 20 s


# gRPC starts another timer thread when one is due and all are at work, and keeps it: as many as ever worked at once, in its own time.
TIMER_THREAD = "grpc_global_tim"

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """memory: resident bytes, summed. handles: open file handles, sockets among them. threads: but gRPC's timers. processes: how many."""

    memory: int = 0
    handles: int = 0
    threads: int = 0
    processes: int = 0

    def grown_over(self, other: "Reading") -> dict[str, float]:
        """Growth of each figure since `other`, as a share of it: 0.05 is 5 % more."""
        return {
            one.name: getattr(self, one.name) / max(1, getattr(other, one.name)) - 1
            for one in fields(self)
        }


def read(pid: int) -> Reading:
    """A process and all below it. Those that end meanwhile count as nothing; psutil.NoSuchProcess when `pid` itself has ended."""
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
    """CPU seconds that a service has used so far, by kind of process."""
    seconds = {"gateway": 0.0, "tritonserver": 0.0, "engine processes": 0.0}
    for name, used in _each(
        pid,
        lambda process: (
            _kind(process, pid),
            process.cpu_times().user + process.cpu_times().system,
        ),
    ):
        seconds[name] += used
    return seconds


def _kind(process: psutil.Process, root: int) -> str:
    if process.pid == root:
        return "gateway"
    return "tritonserver" if process.name() == "tritonserver" else "engine processes"


class Noise:
    """CPU of this machine that neither this process nor any below it used: other programs, and what the host gave to other tenants."""

    def __init__(self) -> None:
        self._at, self._strange = time.perf_counter(), self._read()

    def since(self) -> float:
        """Cores, on average, since the last call; 0.1 is a tenth of one. Processes that ended meanwhile count as strange."""
        now, strange = time.perf_counter(), self._read()
        cores = (strange - self._strange) / (now - self._at)
        self._at, self._strange = now, strange
        return max(0.0, cores)

    @staticmethod
    def _read() -> float:
        machine = psutil.cpu_times()
        ours = sum(
            _each(
                os.getpid(), lambda process: process.cpu_times().user + process.cpu_times().system
            )
        )
        return float(
            machine.user
            + machine.nice
            + machine.system
            + machine.irq
            + machine.softirq
            + machine.steal
            - ours
        )


def thread_names(pid: int) -> Counter[str]:
    """`process:thread`, as the kernel names them, and how many of each; of the same processes and threads as in `read`."""
    return Counter(chain.from_iterable(names.elements() for names in _each(pid, _threads)))


def _each(pid: int, what: Callable[[psutil.Process], T]) -> list[T]:
    root = psutil.Process(pid)
    found = []
    for process in (root, *root.children(recursive=True)):
        try:
            with process.oneshot():
                found.append(what(process))
        except (
            psutil.NoSuchProcess,
            psutil.ZombieProcess,
            psutil.AccessDenied,
            FileNotFoundError,
            ProcessLookupError,
        ):
            if process == root:
                raise
    return found


def _threads(process: psutil.Process) -> Counter[str]:
    names = (name.read_text().strip() for name in Path(f"/proc/{process.pid}/task").glob("*/comm"))
    return Counter(f"{process.name()}:{name}" for name in names if name != TIMER_THREAD)


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
    """A reading once connections are closed and buffers given back: the smallest figures seen within `seconds`.

    back_to: an earlier reading. Where handles or threads are above it, that is `IDLE_THREAD_SECONDS` long watched for their return.
    """
    deadline = time.monotonic() + seconds
    patience = deadline + IDLE_THREAD_SECONDS
    least = read(pid)
    while (now := time.monotonic()) < deadline or (
        back_to is not None and _above(least, back_to) and now < patience
    ):
        time.sleep(0.5)
        latest = read(pid)
        least = Reading(
            *(min(getattr(least, one.name), getattr(latest, one.name)) for one in fields(Reading))
        )
    return least


def _above(reading: Reading, other: Reading) -> bool:
    return reading.handles > other.handles or reading.threads > other.threads
