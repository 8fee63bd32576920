"""An open-loop run of Encode and Decode against the real service."""

import pytest

from loadtest.load.capacity_search import Run
from loadtest.load.open_loop import Generators
from loadtest.load.targets import gateway_targets
from tests.support.running import running


@pytest.mark.bench
def test_gateway_targets_are_answered() -> None:
    with running() as service, Generators(1) as generators:
        for role, target in gateway_targets(service.grpc).items():
            run = Run.of(10, generators.open_loop(target, 10, 2.0).result())
            assert run.good_share == 1, role
            assert 0 < run.p50 <= run.p95 <= run.p99
            assert run.goodput > 5
