import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.engine.probe import PROBE_EVERY, Probe
from service.errors import DeadlineExceeded, EngineUnavailable
from service.triton.client import Triton
from service.triton.models import EXECUTION, Model, Tensor
from tests.support.fake_triton import connected

DECODER = Model(
    "decoder",
    Tensor("x", "INT32", np.int32, (2,)),
    Tensor("y", "INT32", np.int32, (2,)),
    {"codes": "9", "bits_per_token": "4"},
    largest_request=4,
    deep_request=8,
)


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Stands in for Triton: takes `seconds`, and answers its input plus `offset`."""

    def __init__(self) -> None:
        self.seconds, self.requests, self.fails, self.offset = 0.001, 0, False, 0

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(3600)  # hangs
        yield service_pb2.ModelStreamInferResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.requests += 1
        if self.fails:
            await context.abort(grpc.StatusCode.INTERNAL, "the stub died")
        await asyncio.sleep(self.seconds)
        took = np.array([self.seconds * 1e9, 1], np.int64)
        outputs = [{"name": "y"}, {"name": EXECUTION}]
        output = np.frombuffer(request.raw_input_contents[0], np.int32) + self.offset
        return service_pb2.ModelInferResponse(
            outputs=outputs,
            raw_output_contents=[output.astype(np.int32).tobytes(), took.tobytes()],
        )


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def triton(engine: Engine) -> AsyncIterator[Triton]:
    async with connected(engine) as triton:
        yield triton


class Clock:
    """The real clock, and `ahead` seconds more."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.perf_counter() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def probe(triton: Triton, clock: Clock) -> Probe:
    return Probe(triton, engine_timeout_seconds=5.0, probe_seconds=0.0, clock=clock)


async def test_probe_spares_a_slow_engine(engine: Engine, probe: Probe, clock: Clock) -> None:
    engine.seconds = 0.02  # a hundredth of 2 s
    for _ in range(5):
        assert await probe.check(DECODER) is None
    assert engine.requests == 1
    clock.ahead = 1.5
    await probe.check(DECODER)
    assert engine.requests == 1
    clock.ahead = 2.5
    await probe.check(DECODER)
    assert engine.requests == 2


async def test_probe_takes_a_larger_share_where_it_may(engine: Engine, triton: Triton) -> None:
    greedy = Probe(triton, 5.0, 0.0, max_engine_share=1.0)
    engine.seconds = 0.0
    for _ in range(5):
        assert await greedy.check(DECODER) is None
    assert engine.requests > 2


async def test_probe_comes_back_at_once_to_an_engine_that_failed_it(
    engine: Engine, probe: Probe
) -> None:
    engine.fails = True
    for _ in range(3):
        assert isinstance(await probe.check(DECODER), EngineUnavailable)
    assert engine.requests == 3
    engine.fails = False
    assert await probe.check(DECODER) is None


async def test_probe_measures_an_engine_by_its_quickest_answer(
    engine: Engine, probe: Probe, clock: Clock
) -> None:
    engine.seconds = 0.05  # cold: 5 s of rest
    assert await probe.check(DECODER) is None
    engine.seconds = 0.0
    clock.ahead = 5.1
    assert await probe.check(DECODER) is None
    engine.seconds = 0.1  # under load
    for clock.ahead in (5.2, 5.3, 5.4):
        assert await probe.check(DECODER) is None
    assert engine.requests == 5


async def test_probe_comes_back_at_once_to_a_slow_engine_that_failed_a_caller(
    engine: Engine, probe: Probe, triton: Triton
) -> None:
    engine.seconds = 0.05
    for _ in range(2):
        assert await probe.check(DECODER) is None
    assert engine.requests == 1
    engine.fails = True
    with pytest.raises(EngineUnavailable):
        await triton.infer(DECODER, np.zeros((1, 2), np.int32))
    assert isinstance(await probe.check(DECODER), EngineUnavailable)


async def test_probe_lets_callers_answers_stand_for_most_of_its_own(
    engine: Engine, triton: Triton
) -> None:
    probe = Probe(triton, engine_timeout_seconds=60.0, probe_seconds=60.0)
    for _ in range(PROBE_EVERY):
        await triton.infer(DECODER, np.zeros((1, 2), np.int32))
        assert await probe.check(DECODER) is None
    assert engine.requests == PROBE_EVERY + 1


async def test_probe_suspects_an_engine_whose_answer_changes(
    engine: Engine, probe: Probe, clock: Clock, triton: Triton
) -> None:
    assert await probe.check(DECODER) is None
    assert not triton.health.suspected_at
    engine.offset, clock.ahead = 1, 10.0
    assert isinstance(await probe.check(DECODER), EngineUnavailable)
    assert list(triton.health.suspected_at) == ["decoder"]


async def test_probe_suspects_an_engine_that_does_not_answer(
    engine: Engine, triton: Triton
) -> None:
    engine.seconds = 60.0
    probe = Probe(triton, engine_timeout_seconds=0.05, probe_seconds=0.0)
    assert isinstance(await probe.check(DECODER), DeadlineExceeded)
    assert list(triton.health.suspected_at) == ["decoder"]


async def test_probe_waits_longer_for_an_engine_that_has_not_answered_yet(
    engine: Engine, triton: Triton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.probe.TIMEOUT", 0.1)
    engine.seconds = 0.3
    probe = Probe(triton, engine_timeout_seconds=60.0, probe_seconds=0.0, max_engine_share=1.0)
    for _ in range(2):
        assert isinstance(await probe.check(DECODER), DeadlineExceeded)
    assert await probe.check(DECODER) is None  # 0.4 s
    await asyncio.sleep(0.3)
    engine.seconds = 0.8
    assert await probe.check(DECODER) is None  # four times the quickest
    assert not triton.health.suspected_at


async def test_probe_dates_the_suspicion_of_a_silent_generator_back_to_its_silence(
    triton: Triton,
) -> None:
    """So a repair that came in between is not followed by another for the same silence."""
    generator = replace(DECODER, parameters={**DECODER.parameters, "channels": "2"})
    probe = Probe(triton, engine_timeout_seconds=0.2, probe_seconds=0.0)
    waiting = asyncio.create_task(
        anext(triton.streams.infer(generator, {"x": np.zeros(2, np.int32)}))
    )
    await asyncio.sleep(0.1)
    assert await probe.check_generator(generator) is None
    await asyncio.sleep(0.2)
    repaired = time.perf_counter() - 0.1
    assert isinstance(await probe.check_generator(generator), DeadlineExceeded)
    assert triton.health.suspected_at["decoder"] < repaired
    await asyncio.sleep(0.15)
    await probe.check_generator(generator)
    assert triton.health.suspected_at["decoder"] > repaired
    waiting.cancel()
    await asyncio.wait([waiting])
