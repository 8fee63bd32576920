"""Metrics of several processes: a folder of prometheus-client's files, which any of them reads.

The files have the names of processes, `parent`, `1`, `2` and so on, instead of process ids. So a
worker that replaces another goes on with its counters, and the number of files is bounded. Files
that somebody removes, such as systemd-tmpfiles, are made again.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import (
    CollectorRegistry,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.errors import CannotStart

log = structlog.get_logger()
FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own variable
NAME = "_CHANNELTOK_METRICS_NAME"  # of this process; only where processes share metrics
WORKERS = "_CHANNELTOK_METRICS_WORKERS"  # how many there are
PARENT = "parent"
CHECK_SECONDS = 0.5
PATIENCE_SECONDS = 2.0  # that /metrics waits for processes that have not made their files yet


class _Files:
    """This process's files. generation: part of their names, changed to have them opened again."""

    def __init__(self, folder: Path, name: str, workers: int) -> None:
        self.folder = folder
        self._name = name
        self._names = [PARENT, *(str(number) for number in range(1, workers + 1))]
        self._generation = 0
        self._values: dict[Any, str] = {}  # -> the first part of its file's name
        self._restoring = threading.Lock()  # /metrics is answered in threads
        self._write_pid()

    def identifier(self) -> str:
        return f"{self._name}.{self._generation}"

    def _value_file(self, prefix: str, generation: int) -> Path:
        return self.folder / f"{prefix}_{self._name}.{generation}.db"

    def value_class(self) -> Any:
        """prometheus-client's class of values in files, in the files of this process."""
        files = self

        class Value(values.MultiProcessValue(self.identifier)):  # type: ignore[misc]
            def __init__(
                self, typ: str, *arguments: Any, multiprocess_mode: str = "", **options: Any
            ) -> None:
                files.folder.mkdir(parents=True, exist_ok=True)
                super().__init__(typ, *arguments, multiprocess_mode=multiprocess_mode, **options)
                files._values[self] = f"gauge_{multiprocess_mode}" if typ == "gauge" else typ

        return Value

    def complete(self) -> bool:
        """Whether the files of all processes are there, with their values."""
        found = {file.name.split(".")[0] for file in self.folder.glob("*")}
        return self._own_are_there() and found.issuperset(
            f"{prefix}{name}" for name in self._names for prefix in ("", "counter_", "histogram_")
        )

    def restore(self) -> None:
        """Make the files of this process again, with their values, if one is missing."""
        with self._restoring:
            if not self._own_are_there():
                self._make_again()

    def _own_are_there(self) -> bool:
        return all(map(Path.exists, [*self._value_files(), self._pid_file(self._name)]))

    def _make_again(self) -> None:
        """Copies the contents, which still exist: a worker has counters there of the one before."""
        log.warning("metrics_made_again", why=f"files were removed from {self.folder}")
        value_of = {prefix: value for value, prefix in self._values.items()}
        contents = {prefix: _content(value) for prefix, value in value_of.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in (self._pid_file(self._name), *self._value_files()):
            file.unlink(missing_ok=True)
        number = self._generation + 1
        for prefix, content in contents.items():
            self._value_file(prefix, number).write_bytes(content)
        self._generation = number
        next(iter(self._values)).get()  # opens the new files
        self._write_pid()  # last: until then the others wait

    def _value_files(self) -> list[Path]:
        return [self._value_file(prefix, self._generation) for prefix in {*self._values.values()}]

    def _write_pid(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pid_file(self._name).write_text(str(os.getpid()))

    def _pid_file(self, name: str) -> Path:
        return self.folder / f"{name}.pid"


def _content(value: Any) -> bytes:
    """Of the file of a value, which may have been removed but is open."""
    descriptor = value._file._f.fileno()
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


_files: _Files | None = None


def use() -> None:
    """Count in the folder, in the parent and its workers, and else in memory.

    Before the first metric is made.
    """
    global _files
    if NAME in os.environ:
        _files = _Files(Path(os.environ[FOLDER]), os.environ[NAME], int(os.environ[WORKERS]))
        values.ValueClass = _files.value_class()
    else:
        values.ValueClass = values.MutexValue


def prepare(folder: str, workers: int) -> dict[str, str]:
    """Make the folder, without the files of an earlier service; returns the parent's environment.

    Raises CannotStart.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for pattern in ("*.db", "*.pid"):
            for file in Path(folder).glob(pattern):
                file.unlink()
    except OSError as error:
        raise CannotStart(
            f"the folder of the workers' metrics, {folder}, cannot be used ({error.strerror}): "
            f"set {FOLDER} to one that this user may write to"
        ) from error
    return {FOLDER: folder, NAME: PARENT, WORKERS: str(workers)}


def forget(name: str) -> None:
    """Remove what is true of a process only while it lives: its gauges, not its counters."""
    if _files is not None:
        for file in _files.folder.glob(f"gauge_live*_{name}.*.db"):
            file.unlink(missing_ok=True)


async def keep() -> None:
    """Make removed files again, until cancelled."""
    while _files is not None:
        with suppress(OSError):  # tried again, and /metrics fails meanwhile
            _files.restore()
        await asyncio.sleep(CHECK_SECONDS)


def exposition() -> bytes | None:
    """Metrics of all processes; None where they are not in a folder.

    Raises OSError, and TimeoutError while the files of a process are missing: a page without its
    counters would look like a restart of all, and like a leap when they return.
    """
    if _files is None:
        return None
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        _files.restore()
        before = _files.complete()
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        PlatformCollector(registry)
        registry.register(_Processes(_files.folder))
        page = generate_latest(registry)
        if before and _files.complete():
            return page
        if time.monotonic() > give_up:
            raise TimeoutError("the metrics of a process are missing")
        time.sleep(0.05)


class _Processes(Collector):
    """`process_*` of each process, with its name as the label `worker`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for file in sorted(self._folder.glob("*.pid")):
            collector = ProcessCollector(pid=partial(int, file.read_text()), registry=None)
            for metric in collector.collect():
                family = families.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    family.add_sample(sample.name, {"worker": file.stem}, sample.value)
        return families.values()
