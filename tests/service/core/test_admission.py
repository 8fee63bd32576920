import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from prometheus_client import REGISTRY

from service.core.admission import BULK_SHARE, Admission, Priority
from service.errors import Overloaded, Stopping

CALL, STREAM = Priority.INTERACTIVE, Priority.BULK
SOON = 0.01


def waiting(priority: Priority) -> float | None:
    return REGISTRY.get_sample_value("channeltok_images_waiting", {"priority": priority})


@pytest.fixture(autouse=True)
def _nobody_is_left_waiting() -> Iterator[None]:
    yield
    assert {waiting(priority) or 0 for priority in Priority} == {0}


async def held(admission: Admission, seconds: float) -> None:
    async with admission.acquire(CALL):
        await asyncio.sleep(seconds)


async def test_a_call_that_would_wait_too_long_is_refused_at_once_with_a_hint() -> None:
    admission, loop = Admission(1, 100, 0.2), asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for _ in range(5):  # nothing is known to be slow
            group.create_task(held(admission, 0.001))
    for _ in range(16):
        await held(admission, 0.1)
    async with asyncio.TaskGroup() as group:
        group.create_task(held(admission, 0.1))
        await asyncio.sleep(0)
        for _ in range(
            4
        ):  # the fourth in the queue would wait 0.26 s, as far as the mean of sixteen knows
            waiter = group.create_task(_refused(admission))
            await asyncio.sleep(0)
            if waiter.done():
                break
        started = loop.time()
        assert await _refused(admission)
        assert loop.time() - started < 0.05
    await held(admission, 0)


async def test_who_could_not_be_answered_in_time_is_refused_at_once() -> None:
    admission, loop = Admission(1, 100, 60), asyncio.get_running_loop()
    for _ in range(64):
        await held(admission, 0.01)
    async with (
        asyncio.timeout(5),
        admission.acquire(CALL, timeout=0.001),
    ):  # free: nobody knows how long it will take today
        started = loop.time()
        with pytest.raises(Overloaded):
            await admission.acquire(CALL, timeout=0.015).__aenter__()
        assert loop.time() - started < 0.01
        waiter = asyncio.create_task(admission.acquire(CALL, timeout=1).__aenter__())
        await asyncio.sleep(SOON)
        assert waiting(CALL) == 1
    await waiter


async def _refused(admission: Admission) -> bool:
    try:
        await held(admission, 0.1)
    except Overloaded as error:
        assert error.retry_after
        return True
    return False


async def test_the_queue_is_bounded() -> None:
    admission = Admission(1, 1, 60)
    async with admission.acquire(CALL):
        first = asyncio.create_task(admission.acquire(CALL).__aenter__())
        await asyncio.sleep(SOON)
        with pytest.raises(Overloaded):
            await asyncio.wait_for(admission.acquire(CALL).__aenter__(), 5)
    await first


async def test_calls_go_before_streams_which_keep_their_share() -> None:
    admission = Admission(1, 100, 60)
    order: list[Priority] = []

    async def work(priority: Priority) -> None:
        async with admission.acquire(priority):
            order.append(priority)

    async with asyncio.TaskGroup() as group, admission.acquire(CALL):
        for priority in [STREAM] * 3 + [CALL] * 16:
            group.create_task(work(priority))
        await asyncio.sleep(SOON)
        assert (waiting(CALL), waiting(STREAM)) == (16, 3)
    assert order[: BULK_SHARE - 1] == [CALL] * (BULK_SHARE - 1)
    assert order[: 2 * BULK_SHARE].count(STREAM) == 2
    assert len(order) == 19


async def test_cancelled_waiters_take_no_place() -> None:
    admission = Admission(1, 10, 60)
    async with admission.acquire(CALL):
        tasks = [
            asyncio.create_task(admission.acquire(priority).__aenter__())
            for priority in (CALL, STREAM)
        ]
        await asyncio.sleep(SOON)
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5), admission.acquire(CALL):
        pass


async def test_a_place_given_to_one_who_leaves_at_that_moment_is_not_lost() -> None:
    admission = Admission(1, 10, 60)
    async with AsyncExitStack() as held:
        await held.enter_async_context(admission.acquire(CALL))
        leaving = asyncio.create_task(admission.acquire(CALL).__aenter__())
        await asyncio.sleep(SOON)
        await held.aclose()  # the place is handed to it, and before it runs it is cancelled
        leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    async with asyncio.timeout(5), admission.acquire(CALL):
        pass


async def test_a_place_comes_back_when_the_work_fails() -> None:
    admission = Admission(1, 10, 60)
    with pytest.raises(ZeroDivisionError):
        async with admission.acquire(CALL):
            _ = 1 / 0
    async with asyncio.timeout(5), admission.acquire(CALL):
        pass


async def test_closed_it_refuses_and_finishes_what_it_has() -> None:
    admission = Admission(1, 10, 60)
    done: list[str] = []

    async def queued() -> None:
        async with admission.acquire(STREAM):
            done.append("queued")

    async with AsyncExitStack() as held:
        await held.enter_async_context(admission.acquire(CALL))
        waiter = asyncio.create_task(queued())
        await asyncio.sleep(SOON)
        admission.close()
        for priority in Priority:
            with pytest.raises(Stopping) as caught:
                await admission.acquire(priority).__aenter__()
            assert caught.value.retry_after
        assert await admission.idle(SOON) == 2
    assert await admission.idle(5) == 0
    await waiter
    assert done == ["queued"]


async def test_a_place_is_not_free_before_the_work_that_its_holder_left_behind_is_done() -> None:
    admission = Admission(1, 10, 60)
    work = [asyncio.get_running_loop().create_future() for _ in range(3)]
    async with admission.acquire(CALL) as permit:
        for one in work:
            permit.hold_until(one)
        work[0].set_result(None)
    waiter = asyncio.create_task(held(admission, 0))
    work[1].cancel()
    await asyncio.sleep(SOON)
    assert await admission.idle(SOON) == 2
    assert not waiter.done()
    work[2].set_exception(ZeroDivisionError())
    await asyncio.wait_for(waiter, 5)
    assert await admission.idle(SOON) == 0
