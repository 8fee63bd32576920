"""StreamingClient against a server whose streams stall, stop and fail when a test says so."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable, Overloaded, ServiceError
from service.triton.client import Triton
from service.triton.models import Model, Tensor
from tests.support.fake_triton import RecordingPermit, connected

COUNTING = Model(
    "counting", Tensor("length", "INT32", np.int32, (1,)), Tensor("n", "INT32", np.int32, (1,)), {}
)


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Counts from 0 up to a number, one response each.

    silent_at: number at which it stalls until a second request stops it, or for ever if it
    `hangs`.
    """

    def __init__(self) -> None:
        self.silent_at = -1
        self.hangs = False
        self.error = ""
        self.ids: list[str] = []
        self.lengths: list[int] = []
        self.cancelled = asyncio.Event()

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
            self.cancelled.set()
            raise

    async def _length(self, requests: Any) -> int:
        request = await anext(requests)
        self.ids.append(request.id)
        self.lengths.append(int(np.frombuffer(request.raw_input_contents[0], np.int32)[0]))
        return self.lengths[-1]


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, Triton]]:
    engine = Engine()
    async with connected(engine) as triton:
        yield engine, triton


async def count(triton: Triton, upto: int) -> list[int]:
    async with aclosing(
        triton.streams.infer(COUNTING, {"length": np.array([upto], np.int32)})
    ) as responses:
        return [int(response["n"][0]) async for response in responses]


async def test_streaming_client_yields_each_response_by_output_name(
    engine: tuple[Engine, Triton],
) -> None:
    _, triton = engine
    assert await count(triton, 3) == [0, 1, 2]
    assert not triton.streams.has_waiters(COUNTING)
    assert triton.health.count(COUNTING) == 4  # three responses and the final one
    assert not triton.health.suspected_at


async def test_streaming_client_stops_the_model_without_cancelling_the_call(
    engine: tuple[Engine, Triton],
) -> None:
    """Triton may crash when a call is cancelled."""
    server, triton = engine
    server.silent_at = 1
    permit = RecordingPermit()
    call = triton.streams.infer(COUNTING, {"length": np.array([3], np.int32)}, permit=permit)
    assert await anext(call)
    await call.aclose()
    assert not triton.streams.has_waiters(COUNTING)
    await asyncio.wait_for(permit.work[0], 2)
    assert (server.lengths, len(set(server.ids))) == ([3, 0], 1)
    assert not server.cancelled.is_set()
    assert await count(triton, 1) == [0]
    assert len(set(server.ids)) == 2


async def test_streaming_client_cancels_a_call_that_was_abandoned_for_too_long() -> None:
    server = Engine()
    server.silent_at, server.hangs = 1, True
    async with connected(server, abandoned_timeout=0.3) as triton:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(count(triton, 3), 0.2)
        abandoned_at = time.monotonic()
        await asyncio.wait_for(server.cancelled.wait(), 5)
        assert time.monotonic() - abandoned_at > 0.25


async def test_streaming_client_ends_streams_of_a_process_that_is_gone(
    engine: tuple[Engine, Triton],
) -> None:
    """Triton would leave them open for ever."""
    server, triton = engine
    server.silent_at, server.hangs = 1, True
    permit = RecordingPermit()
    inputs = {"length": np.array([3], np.int32)}
    abandoned = triton.streams.infer(COUNTING, inputs, permit=permit)
    await anext(abandoned)
    await abandoned.aclose()
    waiting = triton.streams.infer(COUNTING, inputs)
    await anext(waiting)
    triton.streams.cancel_all("counting")
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(anext(waiting), 2)
    await asyncio.wait(permit.work, timeout=2)
    assert permit.work[0].cancelled()


@pytest.mark.parametrize(
    ("said", "kind", "suspect"),
    [("the stub died", EngineUnavailable, True), ("Exceeds maximum queue size", Overloaded, False)],
)
async def test_streaming_client_raises_errors_of_the_model_without_its_words(
    engine: tuple[Engine, Triton], said: str, kind: type[ServiceError], suspect: bool
) -> None:
    server, triton = engine
    server.error = said
    with pytest.raises(kind) as caught:
        await count(triton, 3)
    assert said not in caught.value.detail
    assert bool(triton.health.suspected_at) is suspect


async def test_streaming_client_raises_if_triton_is_down() -> None:
    triton = Triton("127.0.0.1:1")
    with pytest.raises(EngineUnavailable):
        await count(triton, 3)
    await triton.close()


async def test_streaming_client_counts_silence_over_abandoned_streams_but_not_over_idle_time(
    engine: tuple[Engine, Triton],
) -> None:
    server, triton = engine
    await count(triton, 1)
    await asyncio.sleep(0.3)
    server.silent_at, server.hangs = 0, True
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(count(triton, 3), 0.2)
    assert 0.4 <= triton.health.silent_seconds(COUNTING) < 0.65


async def test_streaming_client_suspects_a_model_whose_stream_was_overtaken() -> None:
    server = Engine()
    server.silent_at, server.hangs = 2, True
    async with connected(server, overtaken_seconds=0.1) as triton:
        stuck = asyncio.create_task(count(triton, 3))
        await asyncio.sleep(0.3)
        assert await count(triton, 2) == [0, 1]
        assert not triton.health.suspected_at
        stuck.cancel()
        await asyncio.wait([stuck])
        assert triton.health.suspected_at["counting"] <= time.perf_counter() - 0.3
