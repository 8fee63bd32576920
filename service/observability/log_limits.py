"""What strangers can write into the log is limited: lines of an event, undecodable metadata."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from structlog.typing import EventDict, WrappedLogger

LINES = 60
SECONDS = 60.0
SUPPRESSED = "log_lines_suppressed"
_MAX_EVENTS = 500  # counted apart; there are fewer places that log
_Key = tuple[object, ...]
_Later = Callable[[float, Callable[[], None]], None]


@dataclass
class _Window:
    since: float
    written: int = 0
    suppressed: int = 0


class LogLimit:
    """At most `lines` lines of an event in `seconds`, then one with the number of the others.

    Events count apart, so that no event keeps another one out of the log; so do the exceptions of
    one event, by type. Debug lines have no limit. It is a processor of structlog, and a filter of
    logging for the lines of libraries.
    """

    def __init__(
        self,
        lines: int = LINES,
        seconds: float = SECONDS,
        *,
        clock: Callable[[], float] = time.monotonic,
        later: _Later | None = None,
    ) -> None:
        """later: calls a function after some seconds; None: in a thread that starts now."""
        self._lines, self._seconds, self._clock = lines, seconds, clock
        self._later = later or _LaterThread()
        self._windows: dict[_Key, _Window] = {}
        self._lock = threading.Lock()

    def __call__(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        """Raises structlog.DropEvent."""
        if method != "debug" and line.get("event") != SUPPRESSED:
            error = line.get("exc_info")
            if not self._admits((line.get("event"), type(error) if error else None)):
                raise structlog.DropEvent
        return line

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a library's line may be written; they count by the place that writes them."""
        return record.levelno <= logging.DEBUG or self._admits((record.name, record.lineno))

    def _admits(self, key: _Key) -> bool:
        now = self._clock()
        with self._lock:
            if key not in self._windows and len(self._windows) >= _MAX_EVENTS:
                key = ("other events",)
            window = self._windows.get(key)
            if window is None or (not window.suppressed and now - window.since >= self._seconds):
                window = self._windows[key] = _Window(now)
            if window.written < self._lines:
                window.written += 1
                return True
            window.suppressed += 1
            is_first = window.suppressed == 1
        if is_first:
            self._later(window.since + self._seconds - now, lambda: self._end(key))
        return False

    def _end(self, key: _Key) -> None:
        with self._lock:
            window = self._windows.pop(key)
        structlog.get_logger().warning(
            SUPPRESSED, of=_name(key), suppressed=window.suppressed, seconds=self._seconds
        )


def drop_undecodable_metadata(record: logging.LogRecord) -> bool:
    """A filter of gRPC's logger: it would write each value that is not UTF-8, be it a token.

    The call itself goes on: gRPC reads such values as Latin-1.
    """
    return not str(record.msg).startswith("Invalid encoding on")


def _name(key: _Key) -> str:
    return " ".join(
        part.__name__ if isinstance(part, type) else str(part) for part in key if part is not None
    )


class _LaterThread:
    """Calls functions after some seconds, in one thread, so that strangers cannot start many.

    In the order in which they were passed: a function runs late if one before it is due later.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[float, Callable[[], None]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="log-limits", daemon=True).start()

    def __call__(self, seconds: float, call: Callable[[], None]) -> None:
        self._calls.put((time.monotonic() + seconds, call))

    def _run(self) -> None:
        while True:
            at, call = self._calls.get()
            time.sleep(max(0.0, at - time.monotonic()))
            call()
