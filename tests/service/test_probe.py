"""How often an engine is asked whether it works."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service import probe
from service.errors import EngineUnavailable
from service.probe import Probe
from service.triton import EXECUTION, Model, Tensor
from tests.service.stand_in import asked

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

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked += 1
        if self.fails:
            await context.abort(grpc.StatusCode.INTERNAL, "the stub died")
        await asyncio.sleep(self.seconds)
        took = np.array([self.seconds * 1e9, 1], np.int64)
        outputs = [{"name": "y"}, {"name": EXECUTION}]
        return service_pb2.ModelInferResponse(outputs=outputs, raw_output_contents=[request.raw_input_contents[0], took.tobytes()])


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, Probe]]:
    engine = Engine()
    async with asked(engine) as triton:
        yield engine, Probe(triton, engine_timeout=5.0, probe_seconds=0.0)


async def test_a_slow_engine_is_asked_rarely(engine: tuple[Engine, Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    real, looks = engine
    real.seconds = 0.02  # so it is left alone for 2 s
    for _ in range(5):
        assert await looks.look(DECODER) is None
    assert real.asked == 1
    monkeypatch.setattr(probe, "SHARE", 1.0)
    real.seconds = 0.0
    await asyncio.sleep(2.1)
    for _ in range(5):
        assert await looks.look(DECODER) is None
    assert real.asked > 2


async def test_one_that_failed_is_asked_at_once(engine: tuple[Engine, Probe]) -> None:
    real, looks = engine
    real.fails = True
    for _ in range(3):
        assert isinstance(await looks.look(DECODER), EngineUnavailable)
    assert real.asked == 3
    real.fails = False
    assert await looks.look(DECODER) is None
