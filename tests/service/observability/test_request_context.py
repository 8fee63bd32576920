import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from service.observability.request_context import begin_request, deadline_passed, log_access


@pytest.fixture(autouse=True)
def _fresh_context() -> Iterator[None]:
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


def bound() -> Any:
    return structlog.contextvars.get_contextvars().get("request_id")


@pytest.mark.parametrize("sent", ["mine", "0" * 64, "5d3c:1.2_b-A"])
def test_begin_request_keeps_a_safe_request_id(sent: str) -> None:
    assert begin_request({"x-request-id": sent}) == sent
    assert bound() == sent


@pytest.mark.parametrize("sent", [None, "", "0" * 65, "two words", "line\nbreak", "é", "$(rm)"])
def test_begin_request_replaces_a_missing_or_unsafe_request_id(sent: str | None) -> None:
    ids = {begin_request({} if sent is None else {"x-request-id": sent}) for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in ids)
    assert bound() in ids


@pytest.mark.parametrize(
    ("seconds", "timeout", "passed"),
    [
        (1000.0, None, False),
        (10.0, 10.0, True),
        (9.9, 10.0, True),  # the caller's own deadline passes up to 1 % earlier
        (9.8, 10.0, False),
        (0.0, 0.001, True),
        (0.05, 0.1, False),
        (1.44, 1.5, True),  # and by as long as its headers waited
        (1.42, 1.5, False),
    ],
)
def test_deadline_passed(seconds: float, timeout: float | None, passed: bool) -> None:
    assert deadline_passed(seconds, timeout) is passed


def test_log_access_writes_a_debug_line() -> None:
    with structlog.testing.capture_logs() as lines:
        log_access("rest", "GET /v1/tokenizers", 200, time.perf_counter() - 1)
    (line,) = lines
    seconds = line.pop("seconds")
    assert 1 <= seconds < 2
    assert line == {
        "event": "access",
        "log_level": "debug",
        "protocol": "rest",
        "call": "GET /v1/tokenizers",
        "code": 200,
    }
