import math
import time

import numpy as np
import pytest

from service.errors import EngineUnavailable, Overloaded
from service.triton.health import EXECUTIONS, EngineHealth, error_from_triton
from service.triton.models import Model, Tensor

TENSOR = Tensor("x", "INT32", np.int32, (1,))
MODEL = Model("m", TENSOR, TENSOR, {})


def test_engine_health_knows_nothing_of_a_model_that_got_no_request() -> None:
    health = EngineHealth()
    assert (health.silent_seconds(MODEL), health.count(MODEL)) == (0.0, 0)
    assert health.failed_at(MODEL) == -math.inf


def test_engine_health_counts_images_and_the_time_since_the_last_reply() -> None:
    health = EngineHealth()
    health.for_model(MODEL).last_reply_at -= 10
    assert 10 <= health.silent_seconds(MODEL) < 11
    health.for_model(MODEL).record_reply(time.perf_counter(), images=3)
    assert health.count(MODEL) == 3
    assert health.silent_seconds(MODEL) < 1


@pytest.mark.parametrize(
    ("longest_run", "age", "suspected"),
    [(0.1, 4.9, False), (0.1, 5.1, True), (2.0, EXECUTIONS * 2.0 - 0.1, False), (2.0, 8.1, True)],
)
def test_engine_health_suspects_a_model_whose_abandoned_request_was_overtaken(
    longest_run: float, age: float, suspected: bool
) -> None:
    health = EngineHealth(overtaken_seconds=5.0)
    health.for_model(MODEL).longest_run = longest_run
    health.for_model(MODEL).record_reply(1000.0)
    health.record_abandoned(MODEL, 1000.0 - age)
    assert health.suspected_at == ({"m": 1000.0 - age} if suspected else {})
    assert health.failed_at(MODEL) > 0


def test_engine_health_keeps_the_newest_request_that_a_suspected_model_failed() -> None:
    health = EngineHealth()
    for sent in (2.0, 3.0, 1.0):
        health.suspect("m", sent)
    assert health.suspected_at == {"m": 3.0}


def test_engine_health_suspects_after_a_failure_and_not_for_a_full_queue() -> None:
    health = EngineHealth()
    assert isinstance(health.record_failure(MODEL, 1.0, "Exceeds maximum queue size"), Overloaded)
    assert health.suspected_at == {}
    error = health.record_failure(MODEL, 1.0, "the stub died")
    assert isinstance(error, EngineUnavailable)
    assert health.suspected_at == {"m": 1.0}
    assert "the stub died" not in error.detail  # callers see no internals, the log does
    assert error.__notes__ == ["Triton says: the stub died"]


def test_errors_from_triton_say_when_to_try_again() -> None:
    assert error_from_triton("maximum queue size").retry_after
    assert error_from_triton("anything").retry_after
