import asyncio
import time

import pytest

from service.core import rate_limit
from service.core.rate_limit import RateLimit, caller
from service.errors import RateLimited


async def taken(limit: RateLimit, client: str, attempts: int) -> int:
    """How many of so many attempts at once pass."""
    caller.set(client)
    passed = 0
    for _ in range(attempts):
        try:
            await limit.take(wait=False)
            passed += 1
        except RateLimited:
            pass
    return passed


async def test_a_burst_then_the_rate() -> None:
    limit = RateLimit(20, 5)
    assert await taken(limit, "one", 50) == 5
    await asyncio.sleep(0.22)
    assert 4 <= await taken(limit, "one", 50) <= 5


async def test_the_hint_is_kept() -> None:
    limit = RateLimit(10, 1)
    await limit.take(wait=False)
    with pytest.raises(RateLimited, match="10 images a second") as caught:
        await limit.take(wait=False)
    assert caught.value.retry_after is not None
    assert 0.05 < caught.value.retry_after <= 0.1
    await asyncio.sleep(caught.value.retry_after)
    await limit.take(wait=False)


async def test_one_client_does_not_cost_another() -> None:
    limit = RateLimit(1, 3)
    assert [await taken(limit, client, 10) for client in ("one", "two")] == [3, 3]


async def test_who_waits_comes_at_the_rate_and_one_who_gives_up_costs_nothing() -> None:
    limit = RateLimit(50, 1)
    started = time.monotonic()
    waiting = [asyncio.create_task(limit.take(wait=True)) for _ in range(11)]
    given_up = [asyncio.create_task(limit.take(wait=True)) for _ in range(50)]
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*waiting)
    assert 0.19 < time.monotonic() - started < 1.0


async def test_without_a_rate_nothing_is_limited_or_kept() -> None:
    limit = RateLimit(None, 1)
    assert await taken(limit, "one", 1000) == 1000
    assert not limit._buckets


async def test_memory_is_bounded_and_the_busy_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 10)
    limit = RateLimit(0.001, 1)
    assert await taken(limit, "busy", 1) == 1
    for number in range(1000):
        assert await taken(limit, f"client {number}", 1) == 1
        assert await taken(limit, "busy", 1) == 0
    assert len(limit._buckets) == 10
