"""What a decoupled model streams, and what becomes of the model when it does not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service import triton as module
from service.errors import EngineUnavailable, Overloaded, ServiceError
from service.triton import Model, Tensor, Triton
from tests.service.stand_in import asked

COUNTING = Model("counting", Tensor("upto", "INT32", np.int32, (1,)), Tensor("n", "INT32", np.int32, (1,)), {})


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Counts from 0 up to a number, in one response each, or goes silent at `silent_at`.

    Stands in for Triton, whose faults nobody can set.
    """

    def __init__(self) -> None:
        self.silent_at = -1
        self.error = ""
        self.cancelled = 0

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            if self.error:
                yield service_pb2.ModelStreamInferResponse(error_message=self.error)
                return
            for number in range(np.frombuffer(request.raw_input_contents[0], np.int32)[0]):
                if number == self.silent_at:
                    try:
                        await asyncio.sleep(3600)
                    finally:
                        self.cancelled += 1
                output = {"name": "n", "datatype": "INT32", "shape": [1]}
                yield service_pb2.ModelStreamInferResponse(
                    infer_response={"outputs": [output], "raw_output_contents": [np.int32(number).tobytes()]}
                )
            yield service_pb2.ModelStreamInferResponse(infer_response={"parameters": {"triton_final_response": {"bool_param": True}}})


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, Triton]]:
    engine = Engine()
    async with asked(engine) as triton:
        yield engine, triton


async def count(triton: Triton, upto: int) -> list[int]:
    async with aclosing(triton.stream(COUNTING, {"upto": np.array([upto], np.int32)})) as responses:
        return [int(response["n"][0]) async for response in responses]


async def test_each_response_comes_by_name(engine: tuple[Engine, Triton]) -> None:
    _, triton = engine
    assert await count(triton, 3) == [0, 1, 2]
    assert not triton.streaming(COUNTING)
    assert triton.answers(COUNTING) == 4  # and the end
    assert not triton.suspects


async def test_leaving_cancels(engine: tuple[Engine, Triton]) -> None:
    real, triton = engine
    real.silent_at = 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(count(triton, 3), 0.2)
    await asyncio.sleep(0.2)
    assert real.cancelled == 1
    assert not triton.streaming(COUNTING)


@pytest.mark.parametrize(
    ("said", "kind", "suspect"), [("the stub died", EngineUnavailable, True), ("Exceeds maximum queue size", Overloaded, False)]
)
async def test_errors(engine: tuple[Engine, Triton], said: str, kind: type[ServiceError], suspect: bool) -> None:
    real, triton = engine
    real.error = said
    with pytest.raises(kind) as caught:
        await count(triton, 3)
    assert said not in caught.value.detail
    assert bool(triton.suspects) is suspect


async def test_an_engine_that_is_down() -> None:
    triton = Triton("127.0.0.1:1")
    with pytest.raises(EngineUnavailable):
        await count(triton, 3)
    await triton.close()


async def test_silence_counts_on_over_callers_who_gave_up_and_not_over_idle_time(engine: tuple[Engine, Triton]) -> None:
    real, triton = engine
    await count(triton, 1)
    await asyncio.sleep(0.3)
    real.silent_at = 0
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(count(triton, 3), 0.2)
    assert 0.4 <= triton.silent_seconds(COUNTING) < 0.65


async def test_a_stream_that_younger_ones_overtook_makes_a_suspect(engine: tuple[Engine, Triton], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERTAKEN_SECONDS", 0.1)
    real, triton = engine
    real.silent_at = 2
    stuck = asyncio.create_task(count(triton, 3))
    await asyncio.sleep(0.3)
    assert await count(triton, 2) == [0, 1]
    assert not triton.suspects
    stuck.cancel()
    await asyncio.wait([stuck])
    assert triton.suspects["counting"] <= time.perf_counter() - 0.3
