import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import structlog
from prometheus_client import REGISTRY

from service.core.call_record import CallRecord
from service.errors import BadImage, DeadlineExceeded, EngineUnavailable, ServiceError
from service.triton.models import Inference

RPC = "test_call_record"


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"channeltok_{name}", {"rpc": RPC, **labels}) or 0.0


async def fail(error: BaseException, age: float = 0.0, timeout: float | None = None) -> None:
    """Record a call that fails `age` seconds after its start."""
    async with CallRecord(RPC, 60.0, timeout=timeout) as call:
        call.set_subject("cat", 100)
        call.started -= age
        raise error


async def test_call_record_sums_the_stages_of_several_inferences(logged: list[Any]) -> None:
    images = count("images_total")
    engine = count("stage_seconds_sum", stage="engine", budget="128")
    async with CallRecord(RPC, 60.0) as call:
        call.end_stage("unpack")
        call.set_subject("cat", 100)
        for queued in (0.5, None, 0.25):  # None: the backend does not report it
            call.add_inference(Inference(np.zeros(1), queued, 1.0))
        call.end_stage("render")
    assert list(call.stages) == ["unpack", "engine_queue", "engine", "render"]
    assert (call.stages["engine_queue"], call.stages["engine"]) == (0.75, 3.0)
    assert call.stages["render"] < 1
    assert count("images_total") == images + 1
    assert count("stage_seconds_sum", stage="engine", budget="128") == engine + 3.0
    assert logged == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadImage("no image"), "BAD_IMAGE"),
        (EngineUnavailable("down"), "ENGINE_UNAVAILABLE"),
        (ZeroDivisionError(), "INTERNAL"),
        (asyncio.CancelledError(), "CANCELLED"),
    ],
)
async def test_call_record_counts_an_error_by_its_code(error: BaseException, code: str) -> None:
    errors, images = count("errors_total", code=code), count("images_total")
    with pytest.raises(type(error)):
        await fail(error)
    assert count("errors_total", code=code) == errors + 1
    assert count("images_total") == images


@pytest.mark.parametrize(("age", "code"), [(0.9, "CANCELLED"), (0.99, "DEADLINE_EXCEEDED")])
async def test_call_record_takes_a_late_cancellation_for_a_missed_deadline(
    age: float, code: str
) -> None:
    errors = count("errors_total", code=code)
    with pytest.raises(asyncio.CancelledError):
        await fail(asyncio.CancelledError(), age, timeout=1.0)
    assert count("errors_total", code=code) == errors + 1


async def test_call_record_logs_a_fault_of_the_service_with_its_notes(logged: list[Any]) -> None:
    error = EngineUnavailable("the engine is down")
    error.add_note("Triton says: the stub died")
    with pytest.raises(EngineUnavailable):
        await fail(error)
    (line,) = logged
    assert (line["event"], line["log_level"], line["code"]) == (
        "call_failed",
        "error",
        "ENGINE_UNAVAILABLE",
    )
    assert (line["tokenizer"], line["k"]) == ("cat", 100)
    assert line["why"] == "the engine is down; Triton says: the stub died"


@pytest.mark.parametrize("error", [BadImage("no image"), ServiceError("internal error")])
async def test_call_record_does_not_log_callers_mistakes_or_internal_errors(
    error: ServiceError, logged: list[Any]
) -> None:
    """Internal errors are logged with their traceback where they become a reply."""
    with pytest.raises(ServiceError):
        await fail(error)
    assert logged == []


@pytest.mark.parametrize(
    ("untimed", "events"), [(frozenset[str](), ["slow_call"]), (frozenset({"admission"}), [])]
)
async def test_call_record_logs_a_slow_call_unless_the_time_was_in_an_untimed_stage(
    untimed: frozenset[str], events: list[str], logged: list[Any]
) -> None:
    async with CallRecord(RPC, slow_seconds=1.0, untimed_stages=untimed) as call:
        call.started -= 10
        call.stage_started -= 10
        call.end_stage("admission")
    assert [line["event"] for line in logged] == events


async def test_call_record_turns_its_deadline_into_an_error_of_ours() -> None:
    errors = count("errors_total", code="DEADLINE_EXCEEDED")
    with pytest.raises(DeadlineExceeded):
        async with CallRecord(RPC, 60.0, timeout=0.01):
            await asyncio.sleep(60)
    assert count("errors_total", code="DEADLINE_EXCEEDED") == errors + 1


@pytest.mark.parametrize("error", [None, BadImage("no image")])
async def test_call_record_counts_an_image_in_flight_until_it_ends(
    error: ServiceError | None,
) -> None:
    before = count("images_in_flight")
    with contextlib.suppress(BadImage):
        async with CallRecord(RPC, 60.0) as call:
            assert count("images_in_flight") == before
            call.begin_flight()
            assert list(call.stages) == ["admission"]
            assert count("images_in_flight") == before + 1
            if error is not None:
                raise error
    assert count("images_in_flight") == before
