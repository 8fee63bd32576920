"""Streams of Triton's: what a generator answers, response by response."""

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
from service.triton.detached import UnderWay, leave, nobody
from service.triton.health import OVERTAKEN_SECONDS, EngineHealth, ModelHealth
from service.triton.models import DTYPE_OF, Model, request_of


class StreamingClient:
    """Of one Triton."""

    def __init__(self, stub: Callable[[], Any], health: EngineHealth) -> None:
        """stub: returns Triton's stub on the current connection."""
        self._stub = stub
        self._health = health
        self._waiters: dict[str, int] = defaultdict(int)  # by model
        self._readings: dict[str, set[asyncio.Task[None]]] = defaultdict(
            set
        )  # of all that are open, also where nobody waits

    async def infer(
        self, model: Model, inputs: Mapping[str, NDArray[Any]], *, under_way: UnderWay = nobody
    ) -> AsyncGenerator[dict[str, NDArray[Any]], None]:
        """What a generator answers, output by name, one dictionary for each response as it comes.

        Each call is a stream of its own. Closing the iterator tells the model to stop (a request of the same id and length 0). Iterate
        within `contextlib.aclosing`. under_way: is given what is done when the model has stopped.
        Raises EngineUnavailable, also in the middle; Overloaded.
        """
        started = latest = time.perf_counter()
        answered = self._health.for_model(model)
        if not self._waiters[model.name] and not answered.has_unfinished_stream:
            answered.at = started  # it was asked nothing before, and so was not silent
        self._waiters[model.name] += 1
        answered.has_unfinished_stream = True
        complete = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[Any]:
            sequence = uuid.uuid4().hex
            yield request_of(model, inputs, sequence)
            if not await complete:
                yield request_of(model, {**inputs, "length": np.zeros(1, np.int32)}, sequence)

        replies: asyncio.Queue[Any] = asyncio.Queue()
        with tracing.engine(model.name) as metadata:
            reading = asyncio.create_task(
                _read(
                    self._stub().ModelStreamInfer(requests(), metadata=metadata), answered, replies
                )
            )
        self._readings[model.name].add(reading)
        reading.add_done_callback(self._readings[model.name].discard)
        under_way(reading)
        try:
            while (reply := await replies.get()) is not None:
                if isinstance(reply, grpc.aio.AioRpcError):
                    raise self._health.failure(model, started, reply.details() or "") from reply
                if reply.error_message:
                    raise self._health.failure(model, started, reply.error_message)
                latest = time.perf_counter()
                if reply.infer_response.outputs:
                    yield {
                        output.name: np.frombuffer(content, DTYPE_OF[output.datatype]).reshape(
                            output.shape
                        )
                        for output, content in zip(
                            reply.infer_response.outputs,
                            reply.infer_response.raw_output_contents,
                            strict=True,
                        )
                    }
                if _is_final(reply):
                    complete.set_result(True)
                    return
            raise self._health.failure(model, started, "its stream ended early")
        finally:
            self._waiters[model.name] -= 1
            if not complete.done():
                complete.set_result(False)
            leave(reading)
            if (
                answered.sent - latest > OVERTAKEN_SECONDS
            ):  # younger ones were answered meanwhile: the process that has this one hangs
                self._health.suspect(model.name, started)

    def has_waiters(self, model: Model) -> bool:
        """Whether somebody waits for answers of it."""
        return self._waiters[model.name] > 0

    def cancel_all(self, name: str) -> None:
        """Of a model whose process is gone: Triton would never end them. Who waits gets EngineUnavailable."""
        for reading in list(self._readings[name]):
            reading.cancel()


async def _read(call: Any, answered: ModelHealth, replies: asyncio.Queue[Any]) -> None:
    """What comes, to the end: a reply each, an error in place of the rest, None. In a task of its own, because gRPC cancels a call
    whose reader is cancelled."""
    started = time.perf_counter()
    try:
        async for reply in call:
            answered.record_reply(started)
            if _is_final(reply):
                answered.has_unfinished_stream = False
            replies.put_nowait(reply)
    except grpc.aio.AioRpcError as error:
        replies.put_nowait(error)
    finally:
        replies.put_nowait(None)


def _is_final(reply: Any) -> bool:
    return bool(reply.infer_response.parameters["triton_final_response"].bool_param)
