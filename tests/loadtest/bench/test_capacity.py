"""The search, on services whose capacity is known; and one leg of the real one."""

from collections.abc import Callable

import pytest

from loadtest.bench import capacity
from loadtest.bench.capacity import Leg
from loadtest.load.open_loop import Generators
from tests.support.running import running

pytestmark = pytest.mark.bench


def service_of(most: float) -> Callable[[float], Leg]:
    """Answers within 50 ms up to `most` per second, and beyond it later and later."""
    return lambda rate: Leg(
        rate, min(rate, most), 0.01, 0.03, 0.05 if rate <= most else 1.0, 1.0, 0.0
    )


@pytest.mark.parametrize("start", [10.0, 100.0, 1000.0])
def test_the_search_ends_beside_the_capacity(start: float) -> None:
    held, legs = capacity.search(service_of(100.0), start, 0.25)
    assert held is not None
    assert 95 <= held.rate <= 100
    assert len(legs) <= capacity.LEGS


def test_refusals_are_no_capacity() -> None:
    def refusing(rate: float) -> Leg:
        return Leg(rate, min(rate, 50.0), 0.01, 0.03, 0.05, min(1.0, 50 / rate), 0.0)

    held, _ = capacity.search(refusing, 80.0, 0.25)
    assert held is not None
    assert 47 <= held.rate <= 50


def test_what_holds_nowhere_is_none() -> None:
    held, legs = capacity.search(service_of(0.0), 80.0, 0.25)
    assert held is None
    assert len(legs) == capacity.LEGS


def test_a_leg_of_the_service() -> None:
    with running() as service, Generators(1) as generators:
        for role, target in capacity.targets(service.grpc).items():
            leg = Leg.of(10, generators.open_loop(target, 10, 2.0).result())
            assert leg.good_share == 1, role
            assert 0 < leg.p50 <= leg.p95 <= leg.p99
            assert leg.goodput > 5
