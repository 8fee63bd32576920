"""A flood of one event is counted, not written; other events are still written."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from service.observability.log_limits import SUPPRESSED, LogLimit, drop_undecodable_metadata
from tests.support.clock import Clock
from tests.support.running import eventually

LINES, SECONDS = 5, 60.0


class Later:
    """Keeps the functions that it is to call."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.append((seconds, call))

    def run(self) -> None:
        for _, call in self.calls:
            call()
        self.calls.clear()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def limit(clock: Clock, later: Later) -> LogLimit:
    return LogLimit(LINES, SECONDS, clock=clock, later=later)


def written(limit: LogLimit, times: int, event: str, method: str = "warning", **more: Any) -> int:
    """How many of these lines the limit admits."""
    count = 0
    for _ in range(times):
        try:
            limit(None, method, {"event": event, **more})
            count += 1
        except structlog.DropEvent:
            pass
    return count


def test_log_limit_counts_events_apart(limit: LogLimit) -> None:
    assert written(limit, 1000, "flood") == LINES
    assert written(limit, 3, "triton_died") == 3


def test_log_limit_says_how_many_lines_it_suppressed(limit: LogLimit, later: Later) -> None:
    written(limit, 1000, "flood")
    assert len(later.calls) == 1
    with capture_logs() as lines:
        later.run()
    (line,) = lines
    assert (line["event"], line["of"], line["suppressed"]) == (SUPPRESSED, "flood", 1000 - LINES)
    assert written(limit, 1000, "flood") == LINES


def test_log_limit_says_nothing_where_nothing_was_suppressed(
    limit: LogLimit, later: Later, clock: Clock
) -> None:
    for _ in range(10):
        assert written(limit, LINES, "ready") == LINES
        clock.now += SECONDS
    assert not later.calls


def test_log_limit_counts_exceptions_of_one_event_apart(limit: LogLimit) -> None:
    assert written(limit, 1000, "internal_error", exc_info=ValueError()) == LINES
    assert written(limit, 1000, "internal_error", exc_info=KeyError()) == LINES


def test_log_limit_leaves_debug_lines_alone(limit: LogLimit) -> None:
    assert written(limit, 1000, "access", "debug") == 1000


def test_log_limit_bounds_its_memory(limit: LogLimit) -> None:
    assert written(limit, 1, "first") == 1
    for number in range(10_000):
        written(limit, 1, f"event {number}")
    assert len(limit._windows) < 1000
    assert written(limit, 1, "first") == 1


def test_log_limit_counts_lines_of_libraries_by_their_place(limit: LogLimit) -> None:
    def record(line: int, text: str) -> logging.LogRecord:
        return logging.LogRecord("uvicorn.error", logging.WARNING, "x", line, text, (), None)

    assert sum(limit.filter(record(1, f"Invalid request {n}")) for n in range(1000)) == LINES
    assert limit.filter(record(2, "something else"))


def test_undecodable_metadata_is_not_logged() -> None:
    text = "Invalid encoding on %s"
    record = logging.LogRecord("grpc", logging.ERROR, "x", 1, text, (b"Bearer \xff",), None)
    assert not drop_undecodable_metadata(record)
    other = logging.LogRecord("grpc", logging.ERROR, "x", 1, "ExecuteBatchError", (), None)
    assert drop_undecodable_metadata(other)


def test_log_limit_reports_many_events_from_one_thread() -> None:
    """Strangers can cause lines of many kinds; they must not start a thread with each."""
    limit = LogLimit(1, 0.05)
    threads = set(threading.enumerate())
    with capture_logs() as logs:
        for number in range(50):
            written(limit, 3, f"event {number}")
        assert not set(threading.enumerate()) - threads
        eventually(lambda: len(logs) == 50, 5, "a line for each event")
    assert {(line["event"], line["suppressed"]) for line in logs} == {(SUPPRESSED, 2)}
