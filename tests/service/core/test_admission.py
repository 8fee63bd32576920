import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from prometheus_client import REGISTRY

from service.core.admission import BULK_SHARE, Admission, Priority
from service.errors import Overloaded, Stopping
from tests.support.clock import Clock

CALL, STREAM = Priority.INTERACTIVE, Priority.BULK
SOON = 0.01


def waiting(priority: Priority) -> float | None:
    return REGISTRY.get_sample_value("channeltok_images_waiting", {"priority": priority})


@pytest.fixture(autouse=True)
def _nobody_is_left_waiting() -> Iterator[None]:
    yield
    assert {waiting(priority) or 0 for priority in Priority} == {0}


async def settle() -> None:
    """Give the event loop the turns that every task needs to reach its next wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def hold(admission: Admission, clock: Clock, seconds: float) -> None:
    async with admission.acquire(CALL):
        clock.advance(seconds)


async def enter(admission: Admission, timeout: float | None = None) -> None:
    async with admission.acquire(CALL, timeout):
        pass


async def hold_for_ever(admission: Admission, priority: Priority) -> None:
    async with admission.acquire(priority):
        await asyncio.Event().wait()


async def test_admission_refuses_a_call_that_could_not_be_answered_before_its_deadline() -> None:
    """Also below the limit: its work would be lost, and others would wait for it."""
    clock = Clock()
    admission = Admission(lambda _: 4, 100, 60.0, clock=clock)
    for _ in range(128):
        await hold(admission, clock, 1.0)
    await enter(admission, timeout=0.01)  # nothing runs, so that the mean may be of other times
    async with asyncio.timeout(5), admission.acquire(CALL):
        with pytest.raises(Overloaded, match="1 images are running and 0 wait: an answer takes"):
            await enter(admission, timeout=0.4)
        await enter(admission, timeout=0.6)
        await enter(admission)


async def test_callers_that_left_before_the_engine_do_not_count() -> None:
    clock = Clock()
    admission = Admission(lambda _: 4, 100, 60.0, clock=clock)
    for _ in range(128):
        await hold(admission, clock, 1.0)
    for _ in range(128):
        with pytest.raises(ValueError, match="not an image"):
            async with admission.acquire(CALL):
                raise ValueError("not an image")
    async with asyncio.timeout(5), admission.acquire(CALL):
        with pytest.raises(Overloaded):
            await enter(admission, timeout=0.4)


async def test_admission_refuses_at_once_a_call_that_would_wait_too_long() -> None:
    clock = Clock()
    admission = Admission(lambda _: 2, 100, 0.2, clock=clock)
    for _ in range(64):
        await hold(admission, clock, 0.1)  # 0.098 s on average: 0.049 s per call in the queue
    async with asyncio.timeout(5), admission.acquire(CALL), admission.acquire(CALL):
        waiters = [asyncio.create_task(enter(admission)) for _ in range(4)]
        await settle()
        assert waiting(CALL) == 4
        with pytest.raises(Overloaded) as caught:
            await enter(admission)
        assert caught.value.retry_after == 1.0
    await asyncio.gather(*waiters)


async def test_admission_refuses_nothing_before_it_knows_how_long_images_take() -> None:
    admission = Admission(lambda _: 1, 100, 0.2, clock=Clock())
    async with asyncio.timeout(5), asyncio.TaskGroup() as group, admission.acquire(CALL):
        for _ in range(5):
            group.create_task(enter(admission))
        await settle()
        assert waiting(CALL) == 5


async def test_admission_hints_at_the_expected_wait_where_it_is_long() -> None:
    clock = Clock()
    admission = Admission(lambda _: 1, 0, 60, clock=clock)
    for _ in range(64):
        await hold(admission, clock, 10)
    async with admission.acquire(CALL):
        with pytest.raises(Overloaded, match="1 images are running, the limit, and 0 wait") as e:
            await enter(admission)
    assert e.value.retry_after == pytest.approx(9.84, abs=0.01)


async def test_admission_refuses_at_once_a_call_that_would_miss_its_deadline() -> None:
    clock = Clock()
    admission = Admission(lambda _: 1, 100, 60, clock=clock)
    for _ in range(64):
        await hold(admission, clock, 1)
    # A free permit is given in any case: this image may be faster than the mean.
    async with asyncio.timeout(5), admission.acquire(CALL, timeout=0.1):
        with pytest.raises(Overloaded):
            await enter(admission, timeout=1.5)
        waiter = asyncio.create_task(enter(admission, timeout=2.5))
        await settle()
        assert waiting(CALL) == 1
    await waiter


async def test_admission_bounds_the_queue() -> None:
    admission = Admission(lambda _: 1, 1, 60)
    async with asyncio.timeout(5), admission.acquire(CALL):
        waiter = asyncio.create_task(enter(admission))
        await settle()
        with pytest.raises(Overloaded):
            await enter(admission)
    await waiter


async def test_admission_prefers_calls_and_leaves_streams_their_share() -> None:
    admission = Admission(lambda _: 1, 100, 60)
    order: list[Priority] = []

    async def work(priority: Priority) -> None:
        async with admission.acquire(priority):
            order.append(priority)

    async with asyncio.TaskGroup() as group, admission.acquire(CALL):
        for priority in [STREAM] * 3 + [CALL] * 16:
            group.create_task(work(priority))
        await settle()
        assert (waiting(CALL), waiting(STREAM)) == (16, 3)
    assert order[: BULK_SHARE - 1] == [CALL] * (BULK_SHARE - 1)
    assert order[: 2 * BULK_SHARE].count(STREAM) == 2
    assert len(order) == 19


async def test_admission_keeps_a_quarter_of_the_permits_for_calls() -> None:
    admission = Admission(lambda _: 8, 100, 60)
    async with asyncio.timeout(5), AsyncExitStack() as held:
        for _ in range(6):
            await held.enter_async_context(admission.acquire(STREAM))
        waiter = asyncio.create_task(hold_for_ever(admission, STREAM))
        await settle()
        assert waiting(STREAM) == 1
        for _ in range(2):
            await enter(admission)
        assert waiting(STREAM) == 1
        await held.aclose()
        await settle()
        assert waiting(STREAM) == 0
        waiter.cancel()


async def test_admission_follows_its_limit() -> None:
    limit = 1
    admission = Admission(lambda _: limit, 100, 60)
    async with asyncio.timeout(5), admission.acquire(CALL):
        waiters = [asyncio.create_task(hold_for_ever(admission, CALL)) for _ in range(3)]
        await settle()
        assert waiting(CALL) == 3
        limit = 3
        waiters.append(asyncio.create_task(hold_for_ever(admission, CALL)))
        await settle()
        assert waiting(CALL) == 2, "the newcomer did not let two of the three pass"
        assert REGISTRY.get_sample_value("channeltok_images_in_flight_limit") == 3
        for waiter in waiters:
            waiter.cancel()
    assert await admission.drain(SOON) == 0


async def test_admission_has_more_permits_while_many_images_wait() -> None:
    """And takes nobody's permit away when fewer do."""
    admission = Admission(lambda demand: 4 if demand > 6 else 2, 100, 60)
    calls = [asyncio.create_task(hold_for_ever(admission, CALL)) for _ in range(6)]
    await settle()
    assert waiting(CALL) == 4
    calls.append(asyncio.create_task(hold_for_ever(admission, CALL)))
    await settle()
    assert waiting(CALL) == 3
    assert REGISTRY.get_sample_value("channeltok_images_in_flight_limit") == 4
    calls.pop().cancel()
    calls.pop(0).cancel()  # it held one of four permits; two are more than enough now
    await settle()
    assert waiting(CALL) == 2
    assert REGISTRY.get_sample_value("channeltok_images_in_flight_limit") == 2
    for call in calls:
        call.cancel()
    assert await admission.drain(SOON) == 0


async def test_admission_gives_no_permit_to_cancelled_waiters() -> None:
    admission = Admission(lambda _: 1, 10, 60)
    async with admission.acquire(CALL):
        tasks = [
            asyncio.create_task(admission.acquire(priority).__aenter__())
            for priority in (CALL, STREAM)
        ]
        await settle()
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5):
        await enter(admission)


async def test_admission_recovers_a_permit_whose_receiver_is_cancelled_at_that_moment() -> None:
    admission = Admission(lambda _: 1, 10, 60)
    async with AsyncExitStack() as held:
        await held.enter_async_context(admission.acquire(CALL))
        receiver = asyncio.create_task(admission.acquire(CALL).__aenter__())
        await settle()
        await held.aclose()  # hands the permit over; the receiver is cancelled before it runs
        receiver.cancel()
    await asyncio.gather(receiver, return_exceptions=True)
    async with asyncio.timeout(5):
        await enter(admission)


async def test_admission_releases_a_permit_when_the_work_fails() -> None:
    admission = Admission(lambda _: 1, 10, 60)
    with pytest.raises(ZeroDivisionError):
        async with admission.acquire(CALL):
            _ = 1 / 0
    async with asyncio.timeout(5):
        await enter(admission)


async def test_admission_once_closed_refuses_new_images_and_finishes_the_others() -> None:
    admission = Admission(lambda _: 1, 10, 60)
    done: list[str] = []

    async def queued() -> None:
        async with admission.acquire(STREAM):
            done.append("queued")

    async with AsyncExitStack() as held:
        await held.enter_async_context(admission.acquire(CALL))
        waiter = asyncio.create_task(queued())
        await settle()
        admission.close()
        for priority in Priority:
            with pytest.raises(Stopping) as caught:
                await admission.acquire(priority).__aenter__()
            assert caught.value.retry_after
        assert await admission.drain(SOON) == 2
    assert await admission.drain(5) == 0
    await waiter
    assert done == ["queued"]


async def test_admission_refuses_no_accepted_image_and_finishes_it_after_close() -> None:
    admission = Admission(lambda _: 1, 0, 0)
    done: list[str] = []

    async def accepted() -> None:
        async with admission.acquire(CALL, 0.001, accepted=True):
            done.append("accepted")

    async with admission.acquire(CALL):
        with pytest.raises(Overloaded):
            admission.check(CALL)
        admission.check(STREAM)
        admission.close()
        waiter = asyncio.create_task(accepted())
        await settle()
        assert not done
    await asyncio.wait_for(waiter, 5)
    assert done == ["accepted"]


async def test_permit_is_held_until_the_work_that_its_holder_left_behind_is_done() -> None:
    admission = Admission(lambda _: 1, 10, 60)
    succeeds, cancelled, fails = (asyncio.get_running_loop().create_future() for _ in range(3))
    async with admission.acquire(CALL) as permit:
        for work in (succeeds, cancelled, fails):
            permit.hold_until(work)
        succeeds.set_result(None)
    waiter = asyncio.create_task(enter(admission))
    cancelled.cancel()
    await settle()
    assert await admission.drain(SOON) == 2
    assert not waiter.done()
    fails.set_exception(ZeroDivisionError())
    await asyncio.wait_for(waiter, 5)
    assert await admission.drain(SOON) == 0
