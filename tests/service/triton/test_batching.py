"""What several callers ask of Triton at once goes there as one request, and each gets his own part of the answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable
from service.triton import batching, detached, health
from service.triton import client as module
from service.triton.client import Triton
from service.triton.models import EXECUTION, Inference, Model, Tensor
from tests.support.fake_triton import asked

DOUBLING = Model(
    "doubling",
    Tensor("x", "INT32", np.int32, (2,)),
    Tensor("y", "INT32", np.int32, (2,)),
    {},
    largest_request=4,
)


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Doubles, and remembers how many entries each request had. Stands in for Triton, whose requests nobody else can count."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.came = asyncio.Condition()
        self.cancelled = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fails = False
        self.execution = (
            0.0  # seconds that it says it took, as our python-backend models do; 0: says nothing
        )

    async def has(self, sizes: list[int]) -> None:
        """Wait until requests of these sizes have come."""
        async with self.came:
            await asyncio.wait_for(self.came.wait_for(lambda: self.sizes == sizes), 5)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        async with self.came:
            self.sizes.append(request.inputs[0].shape[0])
            self.came.notify_all()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails:
            await context.abort(grpc.StatusCode.INTERNAL, "the stub died")
        x = np.frombuffer(request.raw_input_contents[0], np.int32)
        answer = service_pb2.ModelInferResponse(
            outputs=[{"name": "y"}], raw_output_contents=[(2 * x).tobytes()]
        )
        if self.execution:
            answer.outputs.add(name=EXECUTION)
            answer.raw_output_contents.append(
                np.array([[self.execution * 1e9, 1]] * (len(x) // 2), np.int64).tobytes()
            )
        return answer


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, Triton]]:
    engine = Engine()
    async with asked(engine) as triton:
        yield engine, triton


def entries(*values: int) -> NDArray[np.int32]:
    return np.array([[value, -value] for value in values], np.int32)


async def ask(triton: Triton, *values: int, timeout: float | None = 5) -> Inference:
    async with asyncio.timeout(timeout):
        return await triton.infer(DOUBLING, entries(*values))


async def test_each_gets_his_own_part(engine: tuple[Engine, Triton]) -> None:
    real, triton = engine
    parts = await asyncio.gather(*(ask(triton, value) for value in range(6)), ask(triton, 6, 7, 8))
    assert np.array_equal(np.concatenate([part.output for part in parts]), 2 * entries(*range(9)))
    assert sorted(real.sizes) == [2, 3, 4]  # four at most, and nobody's are torn apart
    assert triton.health.count(DOUBLING) == 9


async def test_what_would_wait_in_triton_waits_for_company(
    engine: tuple[Engine, Triton], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_HOLD_SECONDS", 5)
    real, triton = engine
    real.may_answer.clear()
    calls = [
        asyncio.create_task(ask(triton, *range(4)))
    ]  # all that the one instance takes in a run
    for value in range(4, 8):
        await asyncio.sleep(0.05)
        assert real.sizes == [4]
        calls.append(asyncio.create_task(ask(triton, value)))
    await real.has([4, 4])  # full, and gone without waiting for an answer
    calls += [asyncio.create_task(ask(triton, value)) for value in (8, 9)]
    await asyncio.sleep(0.05)
    assert real.sizes == [4, 4]
    real.may_answer.set()
    answers = await asyncio.wait_for(asyncio.gather(*calls), 2)  # 8 and 9 go when there is room
    assert real.sizes == [4, 4, 2]
    assert np.array_equal(
        np.concatenate([answer.output for answer in answers]), 2 * entries(*range(10))
    )


async def test_the_wait_for_company_ends(
    engine: tuple[Engine, Triton], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one of several Tritons hangs, no answer ever makes room."""
    monkeypatch.setattr(batching, "MAX_HOLD_SECONDS", 0.2)
    real, triton = engine
    real.may_answer.clear()
    calls = [asyncio.create_task(ask(triton, *range(4))), asyncio.create_task(ask(triton, 4))]
    await asyncio.sleep(0.1)
    assert real.sizes == [4]
    await real.has([4, 1])
    real.may_answer.set()
    await asyncio.gather(*calls)


async def test_the_wait_for_company_is_time_in_the_queue(engine: tuple[Engine, Triton]) -> None:
    real, triton = engine
    real.execution, real.may_answer = 1e-6, asyncio.Event()
    calls = [asyncio.create_task(ask(triton, *range(4))), asyncio.create_task(ask(triton, 4))]
    await asyncio.sleep(batching.MAX_HOLD_SECONDS + 0.05)
    real.may_answer.set()
    first, held = await asyncio.gather(*calls)
    assert first.queue_seconds is not None
    assert held.queue_seconds is not None
    assert min(first.queue_seconds, held.queue_seconds) >= 0.9 * batching.MAX_HOLD_SECONDS


async def test_who_waits_for_company_may_leave(engine: tuple[Engine, Triton]) -> None:
    real, triton = engine
    real.may_answer.clear()
    first = asyncio.create_task(ask(triton, *range(4)))
    await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError):
        await ask(triton, 4, timeout=batching.MAX_HOLD_SECONDS / 2)
    real.may_answer.set()
    await first
    assert np.array_equal((await ask(triton, 5)).output, 2 * entries(5))
    assert real.sizes == [4, 1]


async def test_more_than_a_request_may_hold_goes_as_several(engine: tuple[Engine, Triton]) -> None:
    real, triton = engine
    assert np.array_equal((await ask(triton, *range(10))).output, 2 * entries(*range(10)))
    assert sorted(real.sizes) == [2, 4, 4]
    real.fails = True
    with pytest.raises(EngineUnavailable):
        await ask(triton, *range(10))


async def test_who_goes_away_takes_nobody_along(engine: tuple[Engine, Triton]) -> None:
    real, triton = engine
    real.may_answer.clear()
    calls = [asyncio.create_task(ask(triton, value)) for value in range(3)]
    await asyncio.sleep(0.2)
    calls[1].cancel()
    await asyncio.sleep(0.1)
    assert real.cancelled == 0
    real.may_answer.set()
    first, gone, last = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(gone, asyncio.CancelledError)
    assert isinstance(first, Inference)
    assert isinstance(last, Inference)
    assert np.array_equal(last.output, 2 * entries(2))


@pytest.mark.parametrize("turns", range(12))
async def test_who_comes_after_one_who_went_away_is_answered(
    engine: tuple[Engine, Triton], turns: int
) -> None:
    _, triton = engine
    gone = asyncio.create_task(ask(triton, 1))
    for _ in range(turns):
        await asyncio.sleep(0)
    gone.cancel()
    assert np.array_equal((await ask(triton, 2)).output, 2 * entries(2))


@pytest.mark.parametrize("traced", [False, True])
async def test_what_was_sent_is_answered_though_all_have_gone(
    engine: tuple[Engine, Triton], traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton may die of a cancelled call."""
    if traced:
        monkeypatch.setattr(
            module.tracing,
            "engine",
            lambda _: contextlib.nullcontext([("traceparent", "00-1-2-01")]),
        )
    real, triton = engine
    real.may_answer.clear()
    under_way: list[asyncio.Task[Inference]] = []
    calls = [
        asyncio.wait_for(
            triton.infer(DOUBLING, entries(value), under_way=under_way.append), 0.2 + value / 10
        )
        for value in range(2)
    ]
    assert [type(error) for error in await asyncio.gather(*calls, return_exceptions=True)] == [
        TimeoutError
    ] * 2
    real.may_answer.set()
    await asyncio.wait_for(asyncio.gather(*under_way), 2)
    assert (real.sizes, real.cancelled) == ([1, 1] if traced else [2], 0)
    assert triton.health.count(DOUBLING) == 2


async def test_what_is_never_answered_is_given_up_in_the_end(
    engine: tuple[Engine, Triton], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached, "ABANDONED_TIMEOUT", 0.3)
    real, triton = engine
    real.may_answer.clear()
    with pytest.raises(TimeoutError):
        await ask(triton, 1, timeout=0.2)
    await asyncio.sleep(0.1)
    assert (real.sizes, real.cancelled) == ([1], 0)
    await asyncio.sleep(0.4)
    assert real.cancelled == 1


@pytest.mark.parametrize(("execution", "hangs"), [(0.001, True), (0.1, False)])
async def test_what_is_given_up_though_younger_ones_were_answered_is_in_an_engine_that_hangs(
    engine: tuple[Engine, Triton], execution: float, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the deadline of whoever asked was too near to show it; not where the engine may take so long."""
    monkeypatch.setattr(detached, "ABANDONED_TIMEOUT", 0.3)
    monkeypatch.setattr(health, "OVERTAKEN_SECONDS", 0.1)
    real, triton = engine
    real.execution = execution
    real.may_answer.clear()
    with pytest.raises(TimeoutError):
        await ask(triton, 1, timeout=0.05)
    real.may_answer = asyncio.Event()
    real.may_answer.set()
    await asyncio.sleep(0.15)
    await ask(triton, 2)
    assert not triton.health.suspected_at
    await asyncio.sleep(0.3)
    assert list(triton.health.suspected_at) == (["doubling"] if hangs else [])


async def test_all_are_told_of_a_failure(engine: tuple[Engine, Triton]) -> None:
    real, triton = engine
    real.fails = True
    failures = await asyncio.gather(
        *(ask(triton, value) for value in range(3)), return_exceptions=True
    )
    assert [type(error) for error in failures] == [EngineUnavailable] * 3
    assert list(triton.health.suspected_at) == ["doubling"]
