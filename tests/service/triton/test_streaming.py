"""What a decoupled model streaming, and what becomes of the model when it does not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable, Overloaded, ServiceError
from service.triton import detached, streaming
from service.triton.client import Triton
from service.triton.models import Model, Tensor
from tests.support.fake_triton import asked

COUNTING = Model(
    "counting", Tensor("length", "INT32", np.int32, (1,)), Tensor("n", "INT32", np.int32, (1,)), {}
)


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Counts from 0 up to a number, in one response each, or goes silent at `silent_at`; a second request stops it, unless it hangs.

    Stands in for Triton, whose faults nobody can set.
    """

    def __init__(self) -> None:
        self.silent_at = -1
        self.hangs = False
        self.error = ""
        self.ids: list[str] = []
        self.lengths: list[int] = []
        self.cancelled = 0

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            for number in range(await self._length(requests)):
                if self.error:
                    yield service_pb2.ModelStreamInferResponse(error_message=self.error)
                    return
                if number == self.silent_at:
                    if not self.hangs and await self._length(requests) == 0:
                        break
                    await asyncio.sleep(3600)
                output = {"name": "n", "datatype": "INT32", "shape": [1]}
                yield service_pb2.ModelStreamInferResponse(
                    infer_response={
                        "outputs": [output],
                        "raw_output_contents": [np.int32(number).tobytes()],
                    }
                )
            yield service_pb2.ModelStreamInferResponse(
                infer_response={"parameters": {"triton_final_response": {"bool_param": True}}}
            )
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _length(self, requests: Any) -> int:
        request = await anext(requests)
        self.ids.append(request.id)
        self.lengths.append(int(np.frombuffer(request.raw_input_contents[0], np.int32)[0]))
        return self.lengths[-1]


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, Triton]]:
    engine = Engine()
    async with asked(engine) as triton:
        yield engine, triton


async def count(triton: Triton, upto: int) -> list[int]:
    async with aclosing(
        triton.streams.infer(COUNTING, {"length": np.array([upto], np.int32)})
    ) as responses:
        return [int(response["n"][0]) async for response in responses]


async def test_each_response_comes_by_name(engine: tuple[Engine, Triton]) -> None:
    _, triton = engine
    assert await count(triton, 3) == [0, 1, 2]
    assert not triton.streams.has_waiters(COUNTING)
    assert triton.health.count(COUNTING) == 4  # and the end
    assert not triton.health.suspected_at


async def test_leaving_stops_the_model_and_cancels_nothing(engine: tuple[Engine, Triton]) -> None:
    """Triton may die of a cancelled call."""
    real, triton = engine
    real.silent_at = 1
    under_way: list[asyncio.Task[None]] = []
    call = triton.streams.infer(
        COUNTING, {"length": np.array([3], np.int32)}, under_way=under_way.append
    )
    assert await anext(call)
    await call.aclose()
    assert not triton.streams.has_waiters(COUNTING)
    await asyncio.wait_for(under_way[0], 2)
    assert (real.lengths, len(set(real.ids)), real.cancelled) == ([3, 0], 1, 0)
    assert await count(triton, 1) == [0]
    assert len(set(real.ids)) == 2


async def test_what_does_not_stop_is_given_up_in_the_end(
    engine: tuple[Engine, Triton], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached, "ABANDONED_TIMEOUT", 0.3)
    real, triton = engine
    real.silent_at, real.hangs = 1, True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(count(triton, 3), 0.2)
    await asyncio.sleep(0.1)
    assert real.cancelled == 0
    await asyncio.sleep(0.4)
    assert real.cancelled == 1


async def test_streams_of_a_process_that_is_gone_end(engine: tuple[Engine, Triton]) -> None:
    """Triton would leave them open for ever."""
    real, triton = engine
    real.silent_at, real.hangs = 1, True
    under_way: list[asyncio.Task[None]] = []
    left = triton.streams.infer(
        COUNTING, {"length": np.array([3], np.int32)}, under_way=under_way.append
    )
    await anext(left)
    await left.aclose()
    waiting = asyncio.create_task(count(triton, 3))
    await asyncio.sleep(0.2)
    triton.streams.cancel_all("counting")
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(waiting, 2)
    await asyncio.wait(under_way, timeout=2)
    assert under_way[0].cancelled()


@pytest.mark.parametrize(
    ("said", "kind", "suspect"),
    [("the stub died", EngineUnavailable, True), ("Exceeds maximum queue size", Overloaded, False)],
)
async def test_errors(
    engine: tuple[Engine, Triton], said: str, kind: type[ServiceError], suspect: bool
) -> None:
    real, triton = engine
    real.error = said
    with pytest.raises(kind) as caught:
        await count(triton, 3)
    assert said not in caught.value.detail
    assert bool(triton.health.suspected_at) is suspect


async def test_an_engine_that_is_down() -> None:
    triton = Triton("127.0.0.1:1")
    with pytest.raises(EngineUnavailable):
        await count(triton, 3)
    await triton.close()


async def test_silence_counts_on_over_callers_who_gave_up_and_not_over_idle_time(
    engine: tuple[Engine, Triton],
) -> None:
    real, triton = engine
    await count(triton, 1)
    await asyncio.sleep(0.3)
    real.silent_at, real.hangs = 0, True
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(count(triton, 3), 0.2)
    assert 0.4 <= triton.health.silent_seconds(COUNTING) < 0.65


async def test_a_stream_that_younger_ones_overtook_makes_a_suspect(
    engine: tuple[Engine, Triton], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "OVERTAKEN_SECONDS", 0.1)
    real, triton = engine
    real.silent_at, real.hangs = 2, True
    stuck = asyncio.create_task(count(triton, 3))
    await asyncio.sleep(0.3)
    assert await count(triton, 2) == [0, 1]
    assert not triton.health.suspected_at
    stuck.cancel()
    await asyncio.wait([stuck])
    assert triton.health.suspected_at["counting"] <= time.perf_counter() - 0.3
