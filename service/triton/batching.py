"""Batcher: joins concurrent requests for one model into few full requests to Triton.

See docs/decisions/0034-full-requests.md and 0049-priority.md.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.triton.detached import ABANDONED_TIMEOUT, DetachedCall, PermitLike
from service.triton.models import Inference, Model

# Turns of the event loop before a batch is sent: microseconds in an idle loop, and in a busy one
# long enough for other calls, whose images are being prepared, to enter the same batch.
TURNS = 8
# A request that takes longer than this, and than OVERDUE times the usual, occupies no instance as
# far as the others are concerned: one of several Tritons behind the same address may hang.
MAX_HOLD_SECONDS = 0.1
OVERDUE = 4
LATEST_WEIGHT = 1 / 8  # of the newest sample in the moving average of a request's seconds
BULK_SHARE = 8  # one batch of so many goes to bulk images first
# For so long after a single call, bulk requests are half as large: the next single call, which
# waits for the one under way, waits half as long.
RECENT_SECONDS = 1.0


@dataclass(eq=False)
class _Waiting:
    """An array that waits for its result. call: the request it is in, once that is sent."""

    array: NDArray[Any]
    permit: PermitLike | None
    arrived: float
    result: asyncio.Future[Inference]
    call: DetachedCall[Inference] | None = None


class Batcher:
    """Batches the requests for one model.

    A batch is sent at once unless every instance of the model already has a full one to run. Then
    it would only wait inside Triton; here others can still enter it, and single calls go first.
    """

    def __init__(
        self,
        send: Callable[[Model, NDArray[Any]], Awaitable[Inference]],
        *,
        max_hold_seconds: float = MAX_HOLD_SECONDS,
        recent_seconds: float = RECENT_SECONDS,
        abandoned_timeout: float = ABANDONED_TIMEOUT,
    ) -> None:
        """send: sends one request to Triton and returns its result."""
        self._send = send
        self._max_hold_seconds = max_hold_seconds
        self._recent_seconds = recent_seconds
        self._abandoned_timeout = abandoned_timeout
        self._single: deque[_Waiting] = deque()
        self._bulk: deque[_Waiting] = deque()
        self._last_single = -math.inf  # arrival of the newest single call
        self._images_sent = 0  # and neither answered nor overdue
        self._load = 0  # the same, but at most model.largest_request of each request
        self._requests_sent = 0
        self._usual_seconds = 0.0
        self._batches = 0
        self._pump: asyncio.Handle | None = None

    async def infer(
        self,
        model: Model,
        array: NDArray[Any],
        permit: PermitLike | None = None,
    ) -> Inference:
        """Run at most model.largest_request images; queue_seconds includes the wait here.

        Images whose permit is for bulk work wait behind the others. Raises what `send` raises.
        Cancelling one caller does not affect the others of its batch.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(array, permit, time.perf_counter(), loop.create_future())
        if permit is not None and permit.bulk:
            queue = self._bulk
        else:
            queue, self._last_single = self._single, waiting.arrived
        queue.append(waiting)
        if self._pump is None:
            self._pump = loop.call_soon(self._turn, model, TURNS if self._load else 0)
        try:
            return await waiting.result
        finally:
            if waiting.call is not None:
                waiting.call.detach()
            elif waiting in queue:
                queue.remove(waiting)

    def _turn(self, model: Model, turns: int) -> None:
        """Send what can be sent after so many more turns, or at once if a batch is full."""
        # With every instance busy nothing can be sent, however long the queues are.
        if turns and self._load < model.capacity and not self._has_full_batch(model):
            self._pump = asyncio.get_running_loop().call_soon(self._turn, model, turns - 1)
            return
        self._pump = None
        self._send_batches(model)

    def _has_full_batch(self, model: Model) -> bool:
        return self._waiting_images() >= model.largest_request

    def _waiting_images(self) -> int:
        return sum(len(one.array) for one in (*self._single, *self._bulk))

    def _send_batches(self, model: Model) -> None:
        """Send batches until every instance has a full one, or nothing waits."""
        while self._load < model.capacity and (batch := self._take(model)):
            call = DetachedCall(self._run(model, batch), self._abandoned_timeout)
            self._count(model, sum(len(one.array) for one in batch), call.task)
            for one in batch:
                call.attach(one.permit)
                one.call = call
            call.task.add_done_callback(partial(_hand_out, batch, time.perf_counter()))

    def _take(self, model: Model) -> list[_Waiting]:
        """The images of the next batch, in the order of their turns; none if they are to wait."""
        bulk = self._bulk and (not self._single or self._batches % BULK_SHARE == BULK_SHARE - 1)
        if bulk and self._requests_sent >= model.tritons * model.instances:
            return []  # it would be in the way of the next single call
        self._batches += 1
        queue, room = self._bulk if bulk else self._single, model.largest_request
        if bulk and time.perf_counter() < self._last_single + self._recent_seconds:
            room //= 2
        elif self._images_sent + self._waiting_images() > 2 * model.capacity:
            # An image takes less of the engine's time, but none is done before all are.
            room = model.deep_request
        batch: list[_Waiting] = []
        while queue and (not batch or len(queue[0].array) <= room):
            if batch and batch[-1].permit is not None and queue[0].permit is batch[-1].permit:
                break  # parts of one array: Triton.infer divided it among the instances
            one = queue.popleft()
            if not one.result.done():  # otherwise its caller has just been cancelled
                batch.append(one)
                room -= len(one.array)
        return batch

    def _count(self, model: Model, images: int, request: asyncio.Task[Inference]) -> None:
        """Count the images of a request as sent until it is answered or overdue."""
        load = min(images, model.largest_request)
        self._images_sent += images
        self._load += load
        self._requests_sent += 1
        counted = True

        def stop_counting(_: object = None) -> None:
            nonlocal counted
            overdue.cancel()
            if counted:
                counted = False
                self._images_sent -= images
                self._load -= load
                self._requests_sent -= 1
                self._send_batches(model)

        seconds = max(self._max_hold_seconds, OVERDUE * self._usual_seconds)
        overdue = asyncio.get_running_loop().call_later(seconds, stop_counting)
        request.add_done_callback(stop_counting)

    async def _run(self, model: Model, batch: list[_Waiting]) -> Inference:
        started = time.perf_counter()
        arrays = [one.array for one in batch]
        result = await self._send(model, arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        taken = time.perf_counter() - started
        self._usual_seconds += LATEST_WEIGHT * (taken - self._usual_seconds)
        return result


def _hand_out(batch: list[_Waiting], sent: float, request: asyncio.Task[Inference]) -> None:
    """Give each array of a batch its rows of the result, or the error of the request."""
    first = 0
    for one in batch:
        rows = slice(first, first + len(one.array))
        first = rows.stop
        if one.result.done():  # its caller has gone
            continue
        if request.cancelled():
            one.result.cancel()
        elif error := request.exception():
            one.result.set_exception(error)
        else:
            result = request.result()
            queued = result.queue_seconds
            if queued is not None:
                queued += sent - one.arrived
            one.result.set_result(Inference(result.output[rows], queued, result.compute_seconds))
