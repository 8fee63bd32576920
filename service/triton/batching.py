"""What callers ask of one model at the same time, in as few requests to Triton as can be (docs/decisions/0034-full-requests.md)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.triton.detached import UnderWay, leave
from service.triton.models import Inference, Model

# Of the event loop, until what is asked goes to Triton: microseconds where nothing else is to be done, and while other calls are read and
# their images prepared, long enough for them to come along.
TURNS = 8
# What waits for company goes after so long whatever is under way: of several Tritons behind one address one may hang.
MAX_HOLD_SECONDS = 0.1


@dataclass
class _Group:
    """Arrays that go as one request. size: images in them. waiting: callers who still do. closed: no others can join them."""

    arrays: list[NDArray[Any]] = field(default_factory=list)
    size: int = 0
    waiting: int = 0
    closed: bool = False
    sent_at: float | None = None
    changed: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # it was closed, or something that was under way is answered
    answer: asyncio.Task[Inference] = field(init=False)


class Batcher:
    """What is asked of one model.

    A request that is not full goes at once, unless all instances have a full run each under way. Then it would wait in Triton; it waits
    here, where others can join it.
    """

    def __init__(self, infer: Callable[[Model, NDArray[Any]], Awaitable[Inference]]) -> None:
        """infer: asks Triton, without joining."""
        self._infer = infer
        self._open: _Group | None = None
        self._under_way = 0  # images

    async def infer(self, model: Model, array: NDArray[Any], under_way: UnderWay) -> Inference:
        """array: of model.largest_request images at most. queue_seconds has the time until it was sent, too.

        Raises what `infer` raises. Who is cancelled takes nobody along.
        """
        asked = time.perf_counter()
        group = self._group(model, len(array))
        under_way(group.answer)
        first = group.size
        group.arrays.append(array)
        group.size += len(array)
        group.waiting += 1
        if group.size == model.largest_request:
            self._close(group)
        try:
            inference = await asyncio.shield(group.answer)
        finally:
            group.waiting -= 1
            if not group.waiting:  # all have their answer, or have gone away
                if group.sent_at is not None:
                    leave(group.answer)
                else:
                    self._close(group)
                    group.answer.cancel()
        queued = inference.queue_seconds
        if queued is not None and group.sent_at is not None:
            queued += group.sent_at - asked
        return replace(
            inference, output=inference.output[first : first + len(array)], queue_seconds=queued
        )

    def _group(self, model: Model, images: int) -> _Group:
        """One that has room for them."""
        group = self._open
        if group is not None and group.size + images > model.largest_request:
            self._close(group)
            group = None
        if group is None:
            group = self._open = _Group()
            group.answer = asyncio.create_task(
                self._send(model, group)
            )  # begins in the next turn of the loop
        return group

    def _close(self, group: _Group) -> None:
        group.closed = True
        group.changed.set()
        if self._open is group:
            self._open = None

    async def _send(self, model: Model, group: _Group) -> Inference:
        for _ in range(TURNS if self._under_way else 0):
            await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_HOLD_SECONDS):
                while (
                    not group.closed and self._under_way >= model.instances * model.largest_request
                ):
                    group.changed.clear()
                    await group.changed.wait()
        self._close(group)
        group.sent_at = time.perf_counter()
        self._under_way += group.size
        try:
            return await self._infer(
                model, group.arrays[0] if len(group.arrays) == 1 else np.concatenate(group.arrays)
            )
        finally:
            self._under_way -= group.size
            if self._open is not None:
                self._open.changed.set()
