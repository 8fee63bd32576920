"""How often an engine is asked whether it works."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.engine import probe
from service.engine.probe import Probe
from service.errors import DeadlineExceeded, EngineUnavailable
from service.triton.client import Triton
from service.triton.models import EXECUTION, Model, Tensor
from tests.support.fake_triton import asked

DECODER = Model(
    "decoder",
    Tensor("x", "INT32", np.int32, (2,)),
    Tensor("y", "INT32", np.int32, (2,)),
    {"codes": "9", "bits_per_token": "4"},
    largest_request=4,
)


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Says that it took `seconds`. Stands in for Triton, whose real engines here take milliseconds."""

    def __init__(self) -> None:
        self.seconds, self.asked, self.fails = 0.001, 0, False

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(3600)  # hangs
        yield service_pb2.ModelStreamInferResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked += 1
        if self.fails:
            await context.abort(grpc.StatusCode.INTERNAL, "the stub died")
        await asyncio.sleep(self.seconds)
        took = np.array([self.seconds * 1e9, 1], np.int64)
        outputs = [{"name": "y"}, {"name": EXECUTION}]
        return service_pb2.ModelInferResponse(
            outputs=outputs, raw_output_contents=[request.raw_input_contents[0], took.tobytes()]
        )


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def triton(engine: Engine) -> AsyncIterator[Triton]:
    async with asked(engine) as triton:
        yield triton


@pytest.fixture
def looks(triton: Triton) -> Probe:
    return Probe(triton, engine_timeout_seconds=5.0, probe_seconds=0.0)


async def test_a_slow_engine_is_asked_rarely(
    engine: Engine, looks: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.seconds = 0.02  # so it is left alone for 2 s
    for _ in range(5):
        assert await looks.look(DECODER) is None
    assert engine.asked == 1
    monkeypatch.setattr(probe, "SHARE", 1.0)
    engine.seconds = 0.0
    await asyncio.sleep(2.1)
    for _ in range(5):
        assert await looks.look(DECODER) is None
    assert engine.asked > 2


async def test_one_that_failed_is_asked_at_once(engine: Engine, looks: Probe) -> None:
    engine.fails = True
    for _ in range(3):
        assert isinstance(await looks.look(DECODER), EngineUnavailable)
    assert engine.asked == 3
    engine.fails = False
    assert await looks.look(DECODER) is None


async def test_how_slow_it_is_is_told_by_its_quickest_answer(engine: Engine, looks: Probe) -> None:
    engine.seconds = 0.01  # cold, so it is left alone for a second
    assert await looks.look(DECODER) is None
    engine.seconds = 0.0
    await asyncio.sleep(1.1)
    assert await looks.look(DECODER) is None
    engine.seconds = 0.2  # under load
    for _ in range(3):
        assert await looks.look(DECODER) is None
    assert engine.asked == 5


async def test_one_that_failed_a_caller_is_asked_at_once_however_slow_it_is(
    engine: Engine, looks: Probe, triton: Triton
) -> None:
    engine.seconds = 0.05
    for _ in range(2):
        assert await looks.look(DECODER) is None
    assert engine.asked == 1
    engine.fails = True
    with pytest.raises(EngineUnavailable):
        await triton.infer(DECODER, np.zeros((1, 2), np.int32))
    assert isinstance(await looks.look(DECODER), EngineUnavailable)


async def test_a_generator_is_suspected_for_what_it_kept_silent_about_before(
    triton: Triton,
) -> None:
    """So a repair that came in between is not followed by another for the same silence."""
    generator = replace(DECODER, parameters={**DECODER.parameters, "channels": "2"})
    looks = Probe(triton, engine_timeout_seconds=0.2, probe_seconds=0.0)
    waiting = asyncio.create_task(
        anext(triton.streams.infer(generator, {"x": np.zeros(2, np.int32)}))
    )
    await asyncio.sleep(0.1)
    assert await looks.look_at_generator(generator) is None
    await asyncio.sleep(0.2)
    repaired = time.perf_counter() - 0.1
    assert isinstance(await looks.look_at_generator(generator), DeadlineExceeded)
    assert triton.health.suspected_at["decoder"] < repaired
    await asyncio.sleep(0.15)
    await looks.look_at_generator(generator)
    assert triton.health.suspected_at["decoder"] > repaired
    waiting.cancel()
    await asyncio.wait([waiting])
