"""Triton, our client, against a server that fails and stalls when a test says so."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable
from service.observability import tracing
from service.triton.client import Triton
from service.triton.models import EXECUTION, Inference, Model, Tensor
from tests.support.fake_triton import RecordingPermit, connected

DOUBLING = Model(
    "doubling",
    Tensor("x", "INT32", np.int32, (2,)),
    Tensor("y", "INT32", np.int32, (2,)),
    {},
    largest_request=4,
    deep_request=8,
)
UNLOADED = "Request for unknown model: 'gone' has no available versions"  # Triton 2.51


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Doubles its input once it may answer, and records requests and cancellations.

    execution: seconds of computing that it reports, as our python-backend models do; 0: none.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.cancelled = 0
        self.changed = asyncio.Condition()
        self.may_answer = asyncio.Event()
        self.fails = False
        self.execution = 0.0

    async def has_got(self, sizes: list[int], cancelled: int = 0) -> None:
        """Wait for requests of these sizes, and for as many cancellations."""
        async with self.changed:
            await asyncio.wait_for(
                self.changed.wait_for(lambda: (self.sizes, self.cancelled) == (sizes, cancelled)),
                5,
            )

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        async with self.changed:
            self.sizes.append(request.inputs[0].shape[0])
            self.changed.notify_all()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            async with self.changed:
                self.cancelled += 1
                self.changed.notify_all()
            raise
        if self.fails:
            await context.abort(grpc.StatusCode.INTERNAL, "the stub died")
        x = np.frombuffer(request.raw_input_contents[0], np.int32)
        reply = service_pb2.ModelInferResponse(
            outputs=[{"name": "y"}], raw_output_contents=[(2 * x).tobytes()]
        )
        if self.execution:
            reply.outputs.add(name=EXECUTION)
            reply.raw_output_contents.append(
                np.array([[self.execution * 1e9, 1]] * (len(x) // 2), np.int64).tobytes()
            )
        return reply


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, Triton]]:
    engine = Engine()
    async with connected(engine) as triton:
        yield engine, triton


@pytest.fixture
async def impatient() -> AsyncIterator[tuple[Engine, Triton]]:
    """With a client that suspects and gives up within tenths of a second."""
    engine = Engine()
    async with connected(engine, abandoned_timeout=0.5, overtaken_seconds=0.1) as triton:
        yield engine, triton


def rows(*values: int) -> NDArray[np.int32]:
    return np.array([[value, -value] for value in values], np.int32)


async def infer(triton: Triton, *values: int, instances: int = 1, timeout: float = 5) -> Inference:
    model = replace(DOUBLING, instances=instances)
    async with asyncio.timeout(timeout):
        return await triton.infer(model, rows(*values), permit=RecordingPermit())


async def test_triton_splits_more_images_than_a_request_may_hold(
    engine: tuple[Engine, Triton],
) -> None:
    server, triton = engine
    server.may_answer.set()
    assert np.array_equal((await infer(triton, *range(10))).output, 2 * rows(*range(10)))
    assert sorted(server.sizes) == [3, 3, 4]
    assert triton.health.count(DOUBLING) == 10
    server.sizes.clear()
    await infer(triton, *range(10), instances=2)
    assert sorted(server.sizes) == [2, 2, 3, 3]  # five rows for each instance
    server.fails = True
    with pytest.raises(EngineUnavailable):
        await infer(triton, *range(10))


@pytest.mark.parametrize("traced", [False, True])
async def test_triton_finishes_a_request_whose_callers_have_all_gone(
    engine: tuple[Engine, Triton], traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton may crash when a call is cancelled."""
    if traced:
        metadata = [("traceparent", "00-1-2-01")]
        monkeypatch.setattr(tracing, "engine_span", lambda _: contextlib.nullcontext(metadata))
    server, triton = engine
    permits = [RecordingPermit() for _ in range(2)]
    calls = [
        asyncio.create_task(triton.infer(DOUBLING, rows(1), permit=permit)) for permit in permits
    ]
    sizes = [1, 1] if traced else [2]
    await server.has_got(sizes)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    server.may_answer.set()
    await asyncio.wait_for(asyncio.gather(*(one for permit in permits for one in permit.work)), 5)
    assert (server.sizes, server.cancelled) == (sizes, 0)
    assert triton.health.count(DOUBLING) == 2


async def test_triton_cancels_a_request_that_was_abandoned_for_too_long(
    impatient: tuple[Engine, Triton],
) -> None:
    server, triton = impatient
    call = asyncio.create_task(infer(triton, 1))
    await server.has_got([1])
    call.cancel()
    abandoned_at = time.monotonic()
    await server.has_got([1], cancelled=1)
    assert time.monotonic() - abandoned_at > 0.4


@pytest.mark.parametrize(("execution", "hangs"), [(0.001, True), (0.1, False)])
async def test_triton_suspects_an_engine_of_an_abandoned_request_that_was_overtaken(
    impatient: tuple[Engine, Triton], execution: float, hangs: bool
) -> None:
    """Even if the caller's deadline was too near to show it; not if a run may take so long."""
    server, triton = impatient
    server.execution = execution
    with pytest.raises(TimeoutError):
        await infer(triton, 1, timeout=0.05)
    server.may_answer = asyncio.Event()
    server.may_answer.set()
    await asyncio.sleep(0.15)
    await infer(triton, 2)
    assert not triton.health.suspected_at
    await server.has_got([1, 1], cancelled=1)
    assert list(triton.health.suspected_at) == (["doubling"] if hangs else [])


async def test_triton_suspects_a_model_that_fails(engine: tuple[Engine, Triton]) -> None:
    server, triton = engine
    server.fails = True
    server.may_answer.set()
    errors = await asyncio.gather(
        *(infer(triton, value) for value in range(3)), return_exceptions=True
    )
    assert [type(error) for error in errors] == [EngineUnavailable] * 3
    assert list(triton.health.suspected_at) == ["doubling"]


async def test_triton_refuses_an_output_of_the_wrong_size(engine: tuple[Engine, Triton]) -> None:
    server, triton = engine
    server.may_answer.set()
    wide = Model("wide", DOUBLING.input, Tensor("y", "INT32", np.int32, (3,)), {})
    with pytest.raises(EngineUnavailable, match="8 bytes instead of 12"):
        await triton.infer(wide, rows(1))
    assert list(triton.health.suspected_at) == ["wide"]


class Unloading(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Unloads one of its models after it has listed them; another one is not ours."""

    def __init__(self, details: str) -> None:
        self.details = details

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelStatisticsResponse(
            model_stats=[{"name": name} for name in ("gone", "stays", "foreign")]
        )

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name == "gone":
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.details)
        tensor = {"name": "x", "data_type": "TYPE_INT32", "dims": [2]}
        config = {"name": request.name, "input": [tensor], "output": [tensor]}
        if request.name != "foreign":
            config["parameters"] = {"tokenizer": {"string_value": "demo"}}
        return service_pb2.ModelConfigResponse(config=config)


async def test_triton_models_omits_what_is_unloaded_meanwhile_or_not_ours() -> None:
    async with connected(Unloading(UNLOADED)) as triton:
        assert [model.name for model in await triton.models()] == ["stays"]


async def test_triton_models_raises_on_other_faults() -> None:
    async with connected(Unloading("out of order")) as triton:
        with pytest.raises(EngineUnavailable):
            await triton.models()
