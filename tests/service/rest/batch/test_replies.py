"""Batch: order, window, limits, and what is left when it is closed."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from service.core.memory import MemoryBudget
from service.errors import BadRequest, TooLarge
from service.rest.batch.bodies import Item
from service.rest.batch.replies import Batch

WINDOW = 3


class Source:
    """`count` items of 100 bytes of memory each; then raises `error`."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.memory = MemoryBudget(10**6)
        self.read = 0
        self._count, self._error = count, error

    async def items(self) -> AsyncGenerator[Item, None]:
        for _ in range(self._count):
            reservation = await self.memory.reserve(100)
            self.read += 1
            yield Item(None, b"data", reservation)
        if self._error is not None:
            raise self._error


class Work:
    """Makes the number of an item when `finish` is called, or at once."""

    def __init__(self, at_once: bool = False) -> None:
        self.running: dict[int, asyncio.Event] = {}
        self.most = 0
        self._at_once = at_once

    async def __call__(self, number: int, item: Item) -> bytes:
        self.running[number] = asyncio.Event()
        self.most = max(self.most, len(self.running))
        try:
            if not self._at_once:
                await self.running[number].wait()
            item.memory.shrink(10)
            return str(number).encode()
        finally:
            del self.running[number]

    def finish(self, number: int) -> None:
        self.running[number].set()


def batch(work: Work, max_items: int = 100, small_replies: bool = True) -> Batch:
    return Batch(WINDOW, max_items, work, small_replies=small_replies)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def collected(replies: Batch) -> list[bytes]:
    return [reply async for reply in replies]


@pytest.mark.parametrize("small_replies", [True, False])
async def test_batch_replies_in_order_with_at_most_a_window_at_work(small_replies: bool) -> None:
    source, work = Source(10), Work()
    replies = batch(work, small_replies=small_replies)
    taking = asyncio.create_task(replies.take(source.items()))
    reading: Any = None
    done: list[int] = []
    while len(done) < 10:
        await settle()
        if taking.done() and reading is None:
            reading = asyncio.create_task(collected(replies))
        for number in sorted(work.running, reverse=True):  # the last first
            done.append(number)
            work.finish(number)
    await taking
    assert await reading == [str(number).encode() for number in range(10)]
    assert work.most == WINDOW
    assert source.memory.reserved == 0


async def test_batch_of_large_items_reads_the_next_when_there_is_room() -> None:
    source, work = Source(10), Work()
    replies = batch(work)
    taking = asyncio.create_task(replies.take(source.items()))
    await settle()
    assert sorted(work.running) == [0, 1, 2]
    assert source.read == WINDOW
    work.finish(1)
    await settle()
    assert sorted(work.running) == [0, 2, 3]
    assert source.read == WINDOW + 1
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await replies.aclose()
    assert not work.running
    assert source.memory.reserved == 0


async def test_batch_of_large_replies_makes_the_next_when_one_was_sent() -> None:
    source, work = Source(10), Work(at_once=True)
    replies = batch(work, small_replies=False)
    await replies.take(source.items())
    await settle()
    assert source.read == 10
    assert replies.size == WINDOW * 10 + 7 * 100
    assert await anext(replies) == b"0"
    await settle()
    assert replies.size == WINDOW * 10 + 7 * 100
    assert await anext(replies) == b"1"  # so the first has been sent
    await settle()
    assert replies.size == WINDOW * 10 + 6 * 100
    await replies.aclose()
    assert source.memory.reserved == 0


@pytest.mark.parametrize("small_replies", [True, False])
async def test_batch_refuses_one_item_over_the_limit(small_replies: bool) -> None:
    source = Source(5)
    replies = batch(Work(at_once=True), 5, small_replies)
    await replies.take(source.items())
    assert len(await collected(replies)) == 5
    source = Source(6)
    replies = batch(Work(at_once=True), 5, small_replies)
    with pytest.raises(TooLarge, match="more than 5 items, the limit"):
        await replies.take(source.items())
    await replies.aclose()
    assert source.memory.reserved == 0


async def test_batch_raises_what_the_body_raises() -> None:
    source, work = Source(2, BadRequest("broken")), Work()
    replies = batch(work)
    with pytest.raises(BadRequest, match="broken"):
        await replies.take(source.items())
    await replies.aclose()
    assert source.memory.reserved == 0
    assert not work.running
