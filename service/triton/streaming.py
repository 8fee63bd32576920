"""StreamingClient: ModelStreamInfer calls to Triton, as generators answer them."""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from service.observability import tracing
from service.triton.detached import ABANDONED_TIMEOUT, DetachedCall, PermitLike
from service.triton.health import EngineHealth, ModelHealth
from service.triton.models import DTYPE_OF, Model, request_of


class StreamingClient:
    """Streams the responses of decoupled models, each call on a gRPC stream of its own."""

    def __init__(
        self,
        stub: Callable[[], Any],
        health: EngineHealth,
        abandoned_timeout: float = ABANDONED_TIMEOUT,
    ) -> None:
        """stub: returns Triton's stub on the current connection."""
        self._stub = stub
        self._health = health
        self._abandoned_timeout = abandoned_timeout
        self._waiters: dict[str, int] = defaultdict(int)  # by model
        # By model: the readers of all open streams, including those whose caller has gone.
        self._readers: dict[str, set[asyncio.Task[None]]] = defaultdict(set)

    async def infer(
        self,
        model: Model,
        inputs: Mapping[str, NDArray[Any]],
        *,
        permit: PermitLike | None = None,
    ) -> AsyncGenerator[dict[str, NDArray[Any]], None]:
        """Yield each response as it arrives, its outputs by name.

        Iterate within `contextlib.aclosing`: closing the iterator makes the model stop (a second
        request with the same id and length 0). permit: held until the model has stopped.
        Raises EngineUnavailable, also after some responses; Overloaded.
        """
        started = latest = time.perf_counter()
        health = self._health.for_model(model)
        if not self._waiters[model.name] and not health.has_unfinished_stream:
            health.last_reply_at = started  # an idle model is not silent
        self._waiters[model.name] += 1
        health.has_unfinished_stream = True
        complete = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[Any]:
            sequence = uuid.uuid4().hex
            yield request_of(model, inputs, sequence)
            if not await complete:
                yield request_of(model, {**inputs, "length": np.zeros(1, np.int32)}, sequence)

        replies: asyncio.Queue[Any] = asyncio.Queue()
        with tracing.engine_span(model.name) as metadata:
            call = DetachedCall(
                _read(
                    self._stub().ModelStreamInfer(requests(), metadata=metadata), health, replies
                ),
                self._abandoned_timeout,
            )
        self._readers[model.name].add(call.task)
        call.task.add_done_callback(self._readers[model.name].discard)
        call.attach(permit)
        try:
            while (reply := await replies.get()) is not None:
                if isinstance(reply, grpc.aio.AioRpcError):
                    details = reply.details() or ""
                    raise self._health.record_failure(model, started, details) from reply
                if reply.error_message:
                    raise self._health.record_failure(model, started, reply.error_message)
                latest = time.perf_counter()
                response = reply.infer_response
                if response.outputs:
                    contents = zip(response.outputs, response.raw_output_contents, strict=True)
                    yield {
                        output.name: np.frombuffer(content, DTYPE_OF[output.datatype]).reshape(
                            output.shape
                        )
                        for output, content in contents
                    }
                if _is_final(reply):
                    complete.set_result(True)
                    return
            raise self._health.record_failure(model, started, "its stream ended early")
        finally:
            self._waiters[model.name] -= 1
            if not complete.done():
                complete.set_result(False)
            call.detach()
            if self._health.is_overtaken(model, latest):
                self._health.suspect(model.name, started)

    def has_waiters(self, model: Model) -> bool:
        """Whether a caller waits for a response of the model."""
        return self._waiters[model.name] > 0

    def cancel_all(self, name: str) -> None:
        """End all streams of a model whose process is gone; Triton would leave them open for ever.

        Their callers get EngineUnavailable.
        """
        for reader in list(self._readers[name]):
            reader.cancel()


async def _read(call: Any, health: ModelHealth, replies: asyncio.Queue[Any]) -> None:
    """Put every reply into the queue, then an error if there was one, then None.

    A task of its own, because gRPC cancels a call whose reader is cancelled.
    """
    started = time.perf_counter()
    try:
        async for reply in call:
            health.record_reply(started)
            if _is_final(reply):
                health.has_unfinished_stream = False
            replies.put_nowait(reply)
    except grpc.aio.AioRpcError as error:
        replies.put_nowait(error)
    finally:
        replies.put_nowait(None)


def _is_final(reply: Any) -> bool:
    return bool(reply.infer_response.parameters["triton_final_response"].bool_param)
