"""One ModelInfer request to Triton: send it, check the reply, record health and batch size."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from service.errors import EngineUnavailable
from service.observability import metrics, tracing
from service.triton.health import ENGINE_RETRY_SECONDS, EngineHealth
from service.triton.models import EXECUTION, Inference, Model, request_of


class InferenceClient:
    """Sends single requests, unbatched."""

    def __init__(self, stub: Callable[[], Any], health: EngineHealth) -> None:
        """stub: returns Triton's stub on the current connection."""
        self._stub = stub
        self._health = health

    async def infer(
        self, model: Model, array: NDArray[Any], metadata: tracing.Metadata | None = None
    ) -> Inference:
        """array: [n, *model.input.shape]. metadata: the trace context for Triton.

        Raises EngineUnavailable, also for an output of the wrong size; Overloaded.
        """
        request = request_of(model, {model.input.name: array})
        sent = time.perf_counter()
        try:
            reply = await self._stub().ModelInfer(request, metadata=metadata)
        except asyncio.CancelledError:  # abandoned for too long
            self._health.record_abandoned(model, sent)
            raise
        except grpc.aio.AioRpcError as error:
            raise self._health.record_failure(model, sent, error.details() or "") from error
        health = self._health.for_model(model)
        health.record_reply(sent, len(array))
        elapsed = health.last_reply_at - sent
        raw = {
            output.name: content
            for output, content in zip(reply.outputs, reply.raw_output_contents, strict=False)
        }
        content = raw.get(model.output.name, b"")
        expected = len(array) * model.output.nbytes
        if len(content) != expected:
            self._health.suspect(model.name, sent)
            raise EngineUnavailable(
                f"the engine returned {len(content)} bytes instead of {expected}: try again",
                ENGINE_RETRY_SECONDS,
            )
        output = np.frombuffer(content, model.output.dtype).reshape(len(array), *model.output.shape)
        execution = np.frombuffer(raw.get(EXECUTION, b""), np.int64)
        if execution.size != 2 * len(array):
            return Inference(output, None, elapsed)
        nanoseconds, batch_size = execution[:2].tolist()  # the same in every row
        health.longest_run = max(health.longest_run, nanoseconds / 1e9)
        for _ in array:
            metrics.BATCH_SIZE.labels(model.name).observe(batch_size)
        compute = min(elapsed, nanoseconds / 1e9)
        return Inference(output, elapsed - compute, compute)
