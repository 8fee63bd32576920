import asyncio
import time
import weakref

import pytest

from service.core.refusals import AT_ONCE, PER_SECOND, Refusals
from service.errors import BadImage, Overloaded, RateLimited
from tests.support.clock import Clock

FULL = Overloaded("full", 2.0)


def delays(refusals: Refusals, count: int, error: Exception = FULL) -> list[float]:
    return [refusals._delay(error, None) for _ in range(count)]


def test_refusals_answer_the_first_at_once_and_the_others_in_their_turn() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert max(delays(refusals, AT_ONCE)) <= 0
    assert delays(refusals, 3) == pytest.approx([1 / PER_SECOND, 2 / PER_SECOND, 3 / PER_SECOND])
    clock.advance(60)
    assert max(delays(refusals, AT_ONCE)) <= 0


def test_refusals_wait_no_longer_than_the_retry_time() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert max(delays(refusals, 5000)) == FULL.retry_after
    assert max(delays(refusals, 10, RateLimited("slower", 0.5))) == 0.5
    clock.advance(2.0)  # what was not held longer does not delay the next ones
    assert delays(refusals, 1)[0] == pytest.approx(1 / PER_SECOND)


def test_refusals_leave_time_to_answer_before_the_deadline() -> None:
    refusals = Refusals(Clock())
    delays(refusals, 5000)
    assert refusals._delay(FULL, 0.2) == pytest.approx(0.1)


@pytest.mark.parametrize("error", [BadImage("no image"), Overloaded("full"), ValueError()])
async def test_refusals_hold_only_what_can_be_repeated(error: Exception) -> None:
    refusals = Refusals(Clock())
    delays(refusals, 5000)
    await asyncio.wait_for(refusals.hold(error), 0.5)


async def test_refusals_end_every_hold_when_the_service_stops() -> None:
    refusals = Refusals()
    delays(refusals, 5000, Overloaded("full", 60.0))
    holds = [asyncio.create_task(refusals.hold(Overloaded("full", 60.0))) for _ in range(5)]
    await asyncio.sleep(0)
    refusals.close()
    await asyncio.wait_for(asyncio.gather(*holds), 5)


class Image:
    """Something that can be seen to be freed."""


async def test_refusals_hold_no_image() -> None:
    refusals = Refusals()
    delays(refusals, AT_ONCE + int(PER_SECOND))
    images: list[weakref.ref[Image]] = []

    async def call(image: Image) -> None:
        images.append(weakref.ref(image))
        raise FULL

    async def reply() -> None:
        try:
            await call(Image())
        except Overloaded as error:
            await refusals.hold(error)

    replying = asyncio.create_task(reply())
    await asyncio.sleep(0.1)
    assert not replying.done()
    assert images[0]() is None
    await replying


async def test_refusals_hold_back_for_the_time_of_a_turn() -> None:
    refusals = Refusals()
    delays(refusals, AT_ONCE + int(PER_SECOND / 5))
    started = time.monotonic()
    await refusals.hold(FULL)
    assert time.monotonic() - started > 0.15
