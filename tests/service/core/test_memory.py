"""MemoryBudget: limits, turns, refusals, slow transfers and cancelled callers."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY

from service.core.memory import (
    MAX_WAITING,
    MemoryBudget,
    Reservation,
    Use,
    memory_for_requests,
    most_bytes,
)
from service.core.rate_limit import caller
from service.errors import CannotStart, Overloaded
from service.settings import Settings

LIMIT = 1000  # 500 for messages
MIB = 2**20


def gauge(name: str, use: Use = Use.MESSAGES) -> float | None:
    return REGISTRY.get_sample_value(f"channeltok_memory_{name}", {"use": use})


@pytest.fixture
def memory() -> Iterator[MemoryBudget]:
    budget = MemoryBudget(LIMIT, grace=0.05)
    yield budget
    assert budget.reserved == 0
    assert {gauge(name, use) for name in ("reserved_bytes", "waiting") for use in Use} == {0}


async def settle() -> None:
    """Give the event loop the turns that every task needs to reach its next wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def task(
    memory: MemoryBudget, size: int, name: str = "", use: Use = Use.MESSAGES
) -> "asyncio.Task[Reservation]":
    """Reserve as the caller `name`."""

    async def reserve() -> Reservation:
        caller.set(name)
        return await memory.reserve(size, use)

    return asyncio.create_task(reserve())


async def test_memory_budget_counts_what_is_reserved(memory: MemoryBudget) -> None:
    with await memory.reserve(300) as first, await memory.reserve(400, Use.IMAGES):
        assert memory.reserved == 700
        assert gauge("reserved_bytes") == 300
        first.shrink(100)
        first.shrink(200)  # it has less already
        assert memory.reserved == 500
        await first.grow(150)
        await first.grow(50)
        assert first.size == 150


async def test_memory_budget_keeps_half_for_images(memory: MemoryBudget) -> None:
    with await memory.reserve(500):
        with pytest.raises(Overloaded):
            await memory.reserve(1, patience=0)
        with await memory.reserve(500, Use.IMAGES), pytest.raises(Overloaded):
            await memory.reserve(1, Use.IMAGES, patience=0)


async def test_memory_budget_refuses_at_once_what_can_never_fit(memory: MemoryBudget) -> None:
    for use in Use:
        with pytest.raises(Overloaded):
            async with asyncio.timeout(1):
                await memory.reserve(memory.largest + 1, use)


async def test_memory_budget_refuses_an_impatient_caller_with_a_retry_time(
    memory: MemoryBudget,
) -> None:
    refused = REGISTRY.get_sample_value("channeltok_memory_refused_total") or 0
    with await memory.reserve(500), pytest.raises(Overloaded) as caught:
        await memory.reserve(1, patience=0.01)
    assert caught.value.retry_after == 1.0
    assert REGISTRY.get_sample_value("channeltok_memory_refused_total") == refused + 1


async def test_memory_budget_lets_small_reservations_pass_larger_ones(memory: MemoryBudget) -> None:
    held = await memory.reserve(400)
    large = task(memory, 500)
    await settle()
    with await memory.reserve(100):  # fits: at once
        small = task(memory, 50)
        await settle()
        assert not small.done()
        held.shrink(300)  # enough for the small one only
        (await small).release()
        assert not large.done()
    held.release()
    (await large).release()


async def test_memory_budget_gives_callers_turns(memory: MemoryBudget) -> None:
    held = await memory.reserve(500)
    flood = [task(memory, 400, "flood") for _ in range(50)]
    await settle()
    honest = task(memory, 400, "honest")
    await settle()
    assert gauge("waiting") == 51
    held.release()
    (await flood[0]).release()
    (await honest).release()
    assert not flood[1].done()
    for each in flood[1:]:
        (await each).release()


async def test_memory_budget_refuses_when_too_many_wait(memory: MemoryBudget) -> None:
    with await memory.reserve(500):
        waiting = [task(memory, 1) for _ in range(MAX_WAITING)]
        await settle()
        with pytest.raises(Overloaded):
            await memory.reserve(1)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("freed", [False, True], ids=["while waiting", "as the bytes come"])
async def test_memory_budget_loses_nothing_when_a_waiting_caller_is_cancelled(
    memory: MemoryBudget, freed: bool
) -> None:
    held = await memory.reserve(500)
    waiting = task(memory, 500)
    behind = task(memory, 500)
    await settle()
    if freed:
        held.release()
    waiting.cancel()
    if not freed:
        held.release()  # before the cancelled one could say so
    with suppress(asyncio.CancelledError):
        (await waiting).release()
    (await behind).release()


async def test_memory_budget_grows_a_reservation_that_waits(memory: MemoryBudget) -> None:
    with await memory.reserve(100) as growing:
        held = await memory.reserve(400)
        more = asyncio.create_task(growing.grow(300))
        await settle()
        assert not more.done()
        held.release()
        await more
        assert memory.reserved == 300


async def test_transfer_that_is_slow_ends_while_others_wait(memory: MemoryBudget) -> None:
    async def send_nothing(size: int) -> None:
        with await memory.reserve(size) as reservation:
            async with memory.transfer(20, reservation):
                await asyncio.Event().wait()

    older, larger = (asyncio.create_task(send_nothing(size)) for size in (200, 300))
    await asyncio.sleep(0.2)
    assert not older.done()  # nobody needs its memory
    (await asyncio.wait_for(memory.reserve(200), 1)).release()
    with pytest.raises(Overloaded, match="slow"):
        await older
    assert not larger.done()  # one was enough
    (await asyncio.wait_for(memory.reserve(400), 1)).release()
    with pytest.raises(Overloaded, match="slow"):
        await larger


async def test_transfer_ends_those_of_the_caller_that_holds_the_most(memory: MemoryBudget) -> None:
    ended = []

    async def send_nothing(name: str, size: int) -> None:
        caller.set(name)
        with await memory.reserve(size) as reservation:
            try:
                async with memory.transfer(None, reservation):
                    await asyncio.Event().wait()
            finally:
                ended.append(name)

    idle = [asyncio.create_task(send_nothing("idle stream", 100))]
    await settle()
    idle += [asyncio.create_task(send_nothing("flood", 100)) for _ in range(4)]
    await settle()
    (await asyncio.wait_for(memory.reserve(100), 1)).release()
    assert ended == ["flood"]
    for each in idle:
        each.cancel()
    await asyncio.gather(*idle, return_exceptions=True)


async def test_transfer_raises_timeout_error_after_its_seconds(memory: MemoryBudget) -> None:
    async def send_nothing() -> None:
        with await memory.reserve(1) as reservation:
            async with memory.transfer(0.01, reservation):
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await send_nothing()


async def test_half_read_bodies_do_not_wait_for_each_other(memory: MemoryBudget) -> None:
    """Each has a part of its memory, and needs more than what is left."""

    async def read() -> int:
        with await memory.reserve(0) as reservation:
            async with memory.transfer(20, reservation):
                for size in (50, 100, 200, 400):
                    await reservation.grow(size, 20)
                    await asyncio.sleep(0)
        return size

    bodies = await asyncio.gather(*(read() for _ in range(20)), return_exceptions=True)
    assert 400 in bodies
    assert {type(body) for body in bodies} <= {int, Overloaded}


def test_memory_for_requests_is_what_the_service_leaves() -> None:
    settings = Settings(max_memory=1024 * MIB, max_connections=1)  # type: ignore[arg-type]
    left = memory_for_requests(settings, 500 * MIB)
    assert 470 * MIB < left < 475 * MIB


def test_memory_for_requests_says_how_much_is_needed() -> None:
    settings = Settings(max_memory=600 * MIB, max_connections=1)  # type: ignore[arg-type]
    with pytest.raises(CannotStart, match="Set CHANNELTOK_MAX_MEMORY to") as caught:
        memory_for_requests(settings, 500 * MIB)
    needed = int(str(caught.value).partition("MAX_MEMORY to ")[2].split()[0])
    enough = Settings(max_memory=needed * MIB, max_connections=1)  # type: ignore[arg-type]
    assert memory_for_requests(enough, 500 * MIB) >= 2 * most_bytes(settings.max_message_bytes)
