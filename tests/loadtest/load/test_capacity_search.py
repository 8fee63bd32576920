"""The capacity search, on simulated services of known capacity."""

from collections.abc import Callable

import pytest

from loadtest.load.capacity_search import MAX_RUNS, Run, search


def simulated(capacity: float) -> Callable[[float], Run]:
    """Answers within 50 ms up to `capacity` calls/s, and above it within a second."""
    return lambda rate: Run(
        rate, min(rate, capacity), 0.01, 0.03, 0.05 if rate <= capacity else 1.0, 1.0, 0.0
    )


@pytest.mark.parametrize("start", [10.0, 100.0, 1000.0])
def test_search_ends_next_to_the_capacity(start: float) -> None:
    held, runs = search(simulated(100.0), start, 0.25)
    assert held is not None
    assert 95 <= held.rate <= 100
    assert len(runs) <= MAX_RUNS


def test_search_does_not_count_refusals_as_capacity() -> None:
    def refusing(rate: float) -> Run:
        return Run(rate, min(rate, 50.0), 0.01, 0.03, 0.05, min(1.0, 50 / rate), 0.0)

    held, _ = search(refusing, 80.0, 0.25)
    assert held is not None
    assert 47 <= held.rate <= 50


def test_search_returns_none_if_no_rate_holds() -> None:
    held, runs = search(simulated(0.0), 80.0, 0.25)
    assert held is None
    assert len(runs) == MAX_RUNS
