"""Threads that never keep a process from ending, as those of concurrent.futures do."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class DaemonThreads:
    """A pool of threads, started with the first work."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._work: queue.SimpleQueue[tuple[Future[None], Callable[..., None], Any] | None]
        self._work = queue.SimpleQueue()
        self._closed = threading.Event()
        self._started = False

    def submit(self, function: Callable[..., None], *arguments: Any) -> "Future[None]":
        """Call a function in a thread, in the order of the calls."""
        if not self._started:
            self._started = True
            for _ in range(self._count):
                threading.Thread(
                    target=_run, args=(self._work, self._closed), name=self._name, daemon=True
                ).start()
        future: Future[None] = Future()
        self._work.put((future, function, arguments))
        return future

    def close(self) -> None:
        """Let the threads end; work that has not begun is dropped."""
        self._closed.set()
        for _ in range(self._count):
            self._work.put(None)


def _run(work: "queue.SimpleQueue[Any]", closed: threading.Event) -> None:
    while (item := work.get()) is not None:
        future, function, arguments = item
        if closed.is_set():
            future.cancel()
            continue
        try:
            function(*arguments)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        del item, future, function, arguments  # they hold a block
