"""reply_to_each: order, window, errors of the reader, and closing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from service.core.admission import Admission
from service.core.memory import MemoryBudget, Reservation
from service.errors import BadRequest, Stopping
from service.grpc.streams import reply_to_each


def admission() -> Admission:
    return Admission(lambda _: 1, 0, 0.0)


class Source:
    """Yields 0 to count - 1, counting what was read; then raises `error` or, with `open`, waits.

    Each item takes 100 bytes of `memory`.
    """

    def __init__(self, count: int, error: Exception | None = None, open: bool = False) -> None:
        self.read = 0
        self.memory = MemoryBudget(10_000)
        self._count, self._error, self._open = count, error, open

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self._count):
            self.read += 1
            self._latest = await self.memory.reserve(100)
            yield number
        if self._error is not None:
            raise self._error
        if self._open:
            await asyncio.Event().wait()

    def take(self) -> Reservation:
        return self._latest


def stream(source: Source, handle: Any, window: int = 8, closing: Admission | None = None) -> Any:
    return reply_to_each(source, handle, window, closing or admission())


async def collect(stream: AsyncIterator[int], into: list[int]) -> None:
    async for item in stream:
        into.append(item)  # noqa: PERF401  # keeps what came before an error


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_reply_to_each_replies_in_the_order_of_completion() -> None:
    first_may_end = asyncio.Event()

    async def handle(number: int) -> int:
        if number == 0:
            await first_may_end.wait()
        elif number == 2:
            first_may_end.set()
        return number * 10

    assert [reply async for reply in stream(Source(3), handle)] == [10, 20, 0]


async def test_reply_to_each_reads_on_only_when_replies_are_taken() -> None:
    source = Source(9)

    async def handle(number: int) -> int:
        return number

    async with aclosing(stream(source, handle, window=2)) as replies:
        assert await anext(replies) == 0
        await settle()
        assert source.read == 3  # two in the window, the third waits for a slot
        assert await anext(replies) == 1
        await settle()
        assert source.read == 4
        assert source.memory.reserved == 300  # the first reply was sent


async def test_reply_to_each_answers_what_it_has_read_then_raises_the_readers_error() -> None:
    async def handle(number: int) -> int:
        return number

    replies: list[int] = []
    with pytest.raises(BadRequest):
        await collect(stream(Source(2, BadRequest("no item")), handle), replies)
    assert replies == [0, 1]


async def test_reply_to_each_answers_what_it_has_read_then_stops_once_closed() -> None:
    closing = admission()
    replies: list[int] = []

    async def handle(number: int) -> int:
        closing.close()
        await settle()
        return number

    with pytest.raises(Stopping):
        await collect(stream(Source(2, open=True), handle, closing=closing), replies)
    assert sorted(replies) == [0, 1]


async def test_reply_to_each_cancels_its_items_when_closed_early() -> None:
    cancelled = []

    async def handle(number: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(number)
        return number

    replies = stream(Source(2, open=True), handle)
    waiting = asyncio.ensure_future(anext(replies))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await settle()
    assert sorted(cancelled) == [0, 1]
