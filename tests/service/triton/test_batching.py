import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import EngineUnavailable
from service.triton.batching import BULK_SHARE, TURNS, Batcher
from service.triton.models import Inference, Model, Tensor
from tests.support.fake_triton import RecordingPermit

DOUBLING = Model(
    "doubling",
    Tensor("x", "INT32", np.int32, (2,)),
    Tensor("y", "INT32", np.int32, (2,)),
    {},
    largest_request=4,
    deep_request=4,
)


class Engine:
    """Doubles its input once it may answer, and records the number of rows of each request."""

    def __init__(
        self, max_hold_seconds: float = 60.0, instances: int = 1, recent_seconds: float = 60.0
    ) -> None:
        self.model = replace(DOUBLING, instances=instances)
        self.batcher = Batcher(
            self.send, max_hold_seconds=max_hold_seconds, recent_seconds=recent_seconds
        )
        self.sizes: list[int] = []
        self.sent = asyncio.Condition()
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def send(self, model: Model, array: NDArray[Any]) -> Inference:
        async with self.sent:
            self.sizes.append(len(array))
            self.sent.notify_all()
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return Inference(2 * array, 0.0, 0.0)

    async def has_got(self, sizes: list[int]) -> None:
        async with self.sent:
            await asyncio.wait_for(self.sent.wait_for(lambda: self.sizes == sizes), 5)

    def call(self, *values: int, bulk: bool = False) -> asyncio.Task[Inference]:
        permit = RecordingPermit(bulk)
        return asyncio.create_task(self.batcher.infer(self.model, rows(*values), permit))


def rows(*values: int) -> NDArray[np.int32]:
    return np.array([[value, -value] for value in values], np.int32)


async def settle() -> None:
    """Give the event loop the turns in which anything that can be sent is sent."""
    for _ in range(3 * TURNS):
        await asyncio.sleep(0)


async def outputs(*calls: asyncio.Task[Inference]) -> NDArray[np.int32]:
    inferences = await asyncio.wait_for(asyncio.gather(*calls), 5)
    return np.concatenate([inference.output for inference in inferences])


async def test_batcher_returns_each_caller_its_own_slice() -> None:
    engine = Engine()
    engine.may_answer.set()
    calls = [*(engine.call(value) for value in range(6)), engine.call(6, 7, 8)]
    assert np.array_equal(await outputs(*calls), 2 * rows(*range(9)))
    assert engine.sizes == [4, 2, 3]  # at most four rows, and no caller's rows are split


async def test_batcher_keeps_the_parts_of_one_call_apart() -> None:
    engine = Engine(instances=2)
    engine.may_answer.set()
    permit = RecordingPermit()
    parts = [rows(0, 1), rows(2, 3), rows(4)]
    calls = [
        asyncio.create_task(engine.batcher.infer(engine.model, part, permit)) for part in parts
    ]
    assert np.array_equal(await outputs(*calls), 2 * rows(*range(5)))
    assert engine.sizes == [2, 2, 1]


async def test_batcher_holds_requests_that_would_wait_in_triton() -> None:
    engine = Engine()
    calls = [engine.call(*range(4))]  # a full run of the only instance
    await engine.has_got([4])
    calls += [engine.call(value) for value in range(4, 10)]
    await settle()
    assert engine.sizes == [4]
    engine.may_answer.set()  # makes room for the others
    assert np.array_equal(await outputs(*calls), 2 * rows(*range(10)))
    assert engine.sizes == [4, 4, 2]


async def test_batcher_sends_single_calls_before_bulk_images_and_apart() -> None:
    engine = Engine(instances=2)
    calls = [engine.call(value, bulk=True) for value in range(20)]
    await engine.has_got([4, 4])
    calls += [engine.call(value) for value in (20, 21)]
    await settle()
    assert engine.sizes == [4, 4]
    engine.may_answer.set()
    await outputs(*calls)
    assert engine.sizes == [4, 4, 2, *[2] * 6]  # bulk requests are half as large then


@pytest.mark.parametrize(("instances", "sizes"), [(1, [8, 4, 1]), (2, [8, 8, 1])])
async def test_batcher_sends_deep_requests_only_while_many_images_wait(
    instances: int, sizes: list[int]
) -> None:
    engine = Engine(instances=instances)
    engine.model = replace(engine.model, deep_request=8)
    running = [engine.call(-number) for number in range(4 * instances)]
    await settle()
    assert engine.sizes == [4] * instances
    waiting = [engine.call(number) for number in range(4 * instances + 9)]
    await settle()
    assert engine.sizes == [4] * instances, "all instances are busy"
    engine.may_answer.set()
    results = await outputs(*running, *waiting)
    assert results[len(running) :, 0].tolist() == [2 * number for number in range(len(waiting))]
    assert engine.sizes[instances:] == sizes


async def test_batcher_sends_no_deep_request_for_bulk_images_after_a_single_call() -> None:
    engine = Engine()
    engine.model = replace(engine.model, deep_request=8)
    calls = [engine.call(0), *(engine.call(number, bulk=True) for number in range(40))]
    await settle()
    engine.may_answer.set()
    await outputs(*calls)
    assert max(engine.sizes) <= 4


async def test_batcher_fills_bulk_requests_when_no_single_call_came_lately() -> None:
    engine = Engine(recent_seconds=0.01)
    engine.may_answer.set()
    await outputs(engine.call(0))
    await asyncio.sleep(0.02)
    await outputs(*(engine.call(value, bulk=True) for value in range(8)))
    assert engine.sizes == [1, 4, 4]


async def test_batcher_sends_a_bulk_array_of_more_than_half_a_request() -> None:
    engine = Engine()
    engine.may_answer.set()
    await outputs(engine.call(0), engine.call(1, 2, 3, bulk=True), engine.call(4, bulk=True))
    assert engine.sizes == [1, 3, 1]


async def test_batcher_leaves_triton_nothing_to_do_before_the_next_single_call() -> None:
    """Bulk images wait here, even where the request under way is not full."""
    engine = Engine()
    calls = [engine.call(0)]
    await engine.has_got([1])
    calls += [engine.call(value, bulk=True) for value in range(1, 9)]
    await settle()
    assert engine.sizes == [1]
    calls.append(engine.call(9))
    await engine.has_got([1, 1])
    engine.may_answer.set()
    await outputs(*calls)
    assert engine.sizes == [1, 1, 2, 2, 2, 2]


async def test_batcher_gives_bulk_images_their_share() -> None:
    engine = Engine()
    engine.may_answer.set()
    done: list[int] = []
    calls = [engine.call(value, bulk=True) for value in range(4)]
    calls += [engine.call(value, value, value, value) for value in range(4, 4 + 2 * BULK_SHARE)]
    for value, call in enumerate(calls):
        call.add_done_callback(lambda _, value=value: done.append(value))
    await outputs(*calls)
    assert done[BULK_SHARE - 1 : BULK_SHARE + 1] == [0, 1]
    assert done[2 * BULK_SHARE : 2 * BULK_SHARE + 2] == [2, 3]


async def test_batcher_sends_after_max_hold_seconds_and_counts_them_as_queue_time() -> None:
    """If one of several Tritons hangs, its requests never make room."""
    engine = Engine(max_hold_seconds=0.05)
    calls = [engine.call(*range(4)), engine.call(4)]
    await engine.has_got([4, 1])
    engine.may_answer.set()
    held = (await asyncio.gather(*calls))[1]
    assert held.queue_seconds is not None
    assert held.queue_seconds >= 0.045


async def test_batcher_does_not_send_a_batch_whose_callers_were_all_cancelled() -> None:
    engine = Engine()
    running, held = engine.call(*range(4)), engine.call(4)
    await settle()
    held.cancel()
    await settle()
    engine.may_answer.set()
    await running
    assert np.array_equal(await outputs(engine.call(5)), 2 * rows(5))
    assert engine.sizes == [4, 1]


async def test_batcher_answers_the_others_of_a_cancelled_caller() -> None:
    engine = Engine()
    calls = [engine.call(value) for value in range(3)]
    await engine.has_got([3])
    calls[1].cancel()
    await settle()
    assert calls[1].cancelled()
    engine.may_answer.set()
    assert np.array_equal(await outputs(calls[0], calls[2]), 2 * rows(0, 2))


@pytest.mark.parametrize("turns", range(12))
async def test_batcher_answers_a_call_that_comes_after_a_cancelled_one(turns: int) -> None:
    engine = Engine()
    engine.may_answer.set()
    cancelled = engine.call(1)
    for _ in range(turns):
        await asyncio.sleep(0)
    cancelled.cancel()
    assert np.array_equal(await outputs(engine.call(2)), 2 * rows(2))


async def test_batcher_raises_a_failure_to_every_caller() -> None:
    engine = Engine()
    engine.error = EngineUnavailable("down")
    engine.may_answer.set()
    calls = [engine.call(value) for value in range(3)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert errors == [engine.error] * 3
    assert engine.sizes == [3]
