"""Batcher: joins concurrent requests for one model into few full requests to Triton.

See docs/decisions/0034-full-requests.md.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.triton.detached import ABANDONED_TIMEOUT, DetachedCall, PermitLike
from service.triton.models import Inference, Model

# Turns of the event loop before a batch is sent: microseconds in an idle loop, and in a busy one
# long enough for other calls, whose images are being prepared, to enter the same batch.
TURNS = 8
# A batch is sent after this time even if no instance is free: one of several Tritons behind the
# same address may hang and never finish the requests that seem to occupy the instances.
MAX_HOLD_SECONDS = 0.1


@dataclass
class _Batch:
    """Arrays that are sent as one request.

    size: images in them. closed: takes no more arrays. changed: set when the batch was closed or
    a running request has ended.
    """

    arrays: list[NDArray[Any]] = field(default_factory=list)
    size: int = 0
    closed: bool = False
    sent_at: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    call: DetachedCall[Inference] = field(init=False)


class Batcher:
    """Batches the requests for one model.

    A batch is sent at once unless every instance of the model already has a full one to run. Then
    it would only wait inside Triton; here it waits open, and other requests can still enter it.
    """

    def __init__(
        self,
        send: Callable[[Model, NDArray[Any]], Awaitable[Inference]],
        *,
        max_hold_seconds: float = MAX_HOLD_SECONDS,
        abandoned_timeout: float = ABANDONED_TIMEOUT,
    ) -> None:
        """send: sends one request to Triton and returns its result."""
        self._send = send
        self._max_hold_seconds = max_hold_seconds
        self._abandoned_timeout = abandoned_timeout
        self._open: _Batch | None = None
        self._images_sent = 0  # and not yet answered

    async def infer(
        self, model: Model, array: NDArray[Any], permit: PermitLike | None = None
    ) -> Inference:
        """Run at most model.largest_request images; queue_seconds includes the wait here.

        Raises what `send` raises. Cancelling one caller does not affect the others of its batch.
        """
        arrived = time.perf_counter()
        batch = self._batch_with_room(model, len(array))
        first = batch.size
        batch.arrays.append(array)
        batch.size += len(array)
        if batch.size == model.largest_request:
            self._close(batch)
        try:
            inference = await batch.call.result(permit)
        finally:
            if batch.sent_at is None and not batch.call.callers:  # all were cancelled
                self._close(batch)
                batch.call.task.cancel()
        queued = inference.queue_seconds
        if queued is not None and batch.sent_at is not None:
            queued += batch.sent_at - arrived
        return replace(
            inference, output=inference.output[first : first + len(array)], queue_seconds=queued
        )

    def _batch_with_room(self, model: Model, images: int) -> _Batch:
        batch = self._open
        if batch is not None and batch.size + images > model.largest_request:
            self._close(batch)
            batch = None
        if batch is None:
            batch = self._open = _Batch()
            batch.call = DetachedCall(self._run(model, batch), self._abandoned_timeout)
        return batch

    def _close(self, batch: _Batch) -> None:
        batch.closed = True
        batch.changed.set()
        if self._open is batch:
            self._open = None

    async def _run(self, model: Model, batch: _Batch) -> Inference:
        for _ in range(TURNS if self._images_sent else 0):
            await asyncio.sleep(0)
        capacity = model.instances * model.largest_request
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_hold_seconds):
                while not batch.closed and self._images_sent >= capacity:
                    batch.changed.clear()
                    await batch.changed.wait()
        self._close(batch)
        batch.sent_at = time.perf_counter()
        self._images_sent += batch.size
        arrays = batch.arrays
        try:
            return await self._send(
                model, arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            )
        finally:
            self._images_sent -= batch.size
            if self._open is not None:
                self._open.changed.set()
