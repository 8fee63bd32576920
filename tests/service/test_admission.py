import asyncio

import pytest

from service.admission import Admission
from service.errors import Overloaded


async def test_a_call_is_refused_when_no_permit_is_left_and_admitted_again_after() -> None:
    admission = Admission(1)
    async with admission.permit(wait=False):
        with pytest.raises(Overloaded) as caught:
            async with admission.permit(wait=False):
                pass
        assert caught.value.retry_after
    async with admission.permit(wait=False):
        pass


async def test_a_stream_waits_for_its_permit() -> None:
    admission = Admission(1)
    order = []

    async def stream() -> None:
        async with admission.permit(wait=True):
            order.append("stream")

    async with admission.permit(wait=False):
        waiting = asyncio.create_task(stream())
        await asyncio.sleep(0.01)
        order.append("call")
    await waiting
    assert order == ["call", "stream"]


async def test_a_cancelled_waiter_takes_no_permit() -> None:
    admission = Admission(1)
    async with admission.permit(wait=False):
        waiting = asyncio.create_task(admission.permit(wait=True).__aenter__())
        await asyncio.sleep(0.01)
        waiting.cancel()
    await asyncio.sleep(0.01)
    async with admission.permit(wait=False):
        pass


async def test_a_permit_comes_back_when_the_work_fails() -> None:
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError):
        async with admission.permit(wait=False):
            _ = 1 / 0
    async with admission.permit(wait=False):
        pass
