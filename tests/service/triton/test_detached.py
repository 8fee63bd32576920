import asyncio

import pytest

from service.triton.detached import DetachedCall
from tests.support.fake_triton import RecordingPermit


async def test_detached_call_goes_on_without_its_callers_and_holds_their_permits() -> None:
    may_end, permit = asyncio.Event(), RecordingPermit()

    async def work() -> int:
        await may_end.wait()
        return 1

    call = DetachedCall(work())
    callers = [asyncio.create_task(call.result(permit)) for _ in range(2)]
    await asyncio.sleep(0)
    assert (call.callers, permit.work) == (2, [call.task] * 2)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    assert call.callers == 0
    may_end.set()
    assert await call.task == 1


async def test_detached_call_is_cancelled_when_it_was_abandoned_for_too_long() -> None:
    call = DetachedCall(asyncio.sleep(3600), abandoned_timeout=0.05)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call.result(), 0.01)
    assert not call.task.done()
    await asyncio.wait([call.task], timeout=5)
    assert call.task.cancelled()


async def test_detached_call_has_no_time_limit_while_one_caller_waits() -> None:
    call = DetachedCall(asyncio.sleep(0.1, "answer"), abandoned_timeout=0.01)
    cancelled, waiting = (asyncio.create_task(call.result()) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await waiting == "answer"


async def test_detached_call_raises_what_its_work_raises() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await DetachedCall(work()).result()
