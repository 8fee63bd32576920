import asyncio
import time

import pytest

from service.core.rate_limit import RateLimit, caller
from service.errors import RateLimited
from tests.support.clock import Clock


async def passed(limit: RateLimit, client: str, attempts: int) -> int:
    """Number of attempts of a client that pass at once."""
    caller.set(client)
    count = 0
    for _ in range(attempts):
        try:
            await limit.take(wait=False)
            count += 1
        except RateLimited:
            pass
    return count


async def test_rate_limit_allows_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    limit = RateLimit(20, 5, clock=clock)
    assert await passed(limit, "one", 50) == 5
    clock.advance(0.22)
    assert await passed(limit, "one", 50) == 4
    clock.advance(3600)
    assert await passed(limit, "one", 50) == 5


async def test_rate_limit_tells_when_to_try_again() -> None:
    clock = Clock()
    limit = RateLimit(10, 1, clock=clock)
    await limit.take(wait=False)
    clock.advance(0.03)
    with pytest.raises(RateLimited, match="10 images a second") as caught:
        await limit.take(wait=False)
    assert caught.value.retry_after == pytest.approx(0.07)
    clock.advance(0.0701)
    await limit.take(wait=False)


async def test_rate_limit_counts_each_client_separately() -> None:
    limit = RateLimit(1, 3, clock=Clock())
    assert [await passed(limit, client, 10) for client in ("one", "two")] == [3, 3]


async def test_rate_limit_delays_waiting_calls_and_charges_nothing_for_cancelled_ones() -> None:
    limit = RateLimit(50, 1)
    started = time.monotonic()
    waiting = [asyncio.create_task(limit.take(wait=True)) for _ in range(11)]
    cancelled = [asyncio.create_task(limit.take(wait=True)) for _ in range(50)]
    await asyncio.sleep(0)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*waiting)
    assert 0.19 < time.monotonic() - started < 1.0


async def test_rate_limit_without_a_rate_limits_and_keeps_nothing() -> None:
    limit = RateLimit(None, 1)
    assert await passed(limit, "one", 1000) == 1000
    assert not limit._buckets


async def test_rate_limit_keeps_the_buckets_of_the_most_recent_clients() -> None:
    limit = RateLimit(0.001, 1, max_clients=10, clock=Clock())
    assert await passed(limit, "busy", 1) == 1
    for number in range(1000):
        assert await passed(limit, f"client {number}", 1) == 1
        assert await passed(limit, "busy", 1) == 0
    assert len(limit._buckets) == 10
