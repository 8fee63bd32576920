"""Talking to Triton over its gRPC API: what is served, inference, loading, statistics."""

import asyncio
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable
from service.observability import metrics, tracing
from service.triton.batching import Batcher
from service.triton.detached import ABANDONED_TIMEOUT, UnderWay, leave, nobody
from service.triton.health import RETRY_AFTER_SECONDS, EngineHealth
from service.triton.models import EXECUTION, Inference, Model, model_of, request_of
from service.triton.streaming import StreamingClient


def _channel(url: str) -> Any:
    return grpc.aio.insecure_channel(
        url,
        options=[
            ("grpc.max_receive_message_length", 64 * 2**20),
            # Triton comes up within a second, also after a restart: the default waits 1 s before the second try.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
            (
                "grpc.use_local_subchannel_pool",
                1,
            ),  # a restarted Triton must not inherit the backoff of the dead one
            # Where a name stands for several Tritons: all of them, call by call, and not the first for ever.
            ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
        ],
    )


class Triton:
    """Client of one tritonserver. Every method raises EngineUnavailable when it cannot be reached."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.health = EngineHealth()
        self._batchers: dict[str, Batcher] = defaultdict(lambda: Batcher(self._infer))  # by model
        self._replaced: dict[
            asyncio.Task[None], Any
        ] = {}  # what closes a replaced channel -> the channel, until its calls end
        self._channel = _channel(url)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.streams = StreamingClient(lambda: self._stub, self.health)

    def reconnect(self) -> None:
        """Use a new channel from now on; calls under way finish on the old one.

        gRPC waits up to two minutes before it looks up a name again that it could not resolve, or whose server moved. A new channel
        looks it up at once.
        """
        closing = asyncio.create_task(self._channel.close(ABANDONED_TIMEOUT))
        self._replaced[closing] = self._channel
        closing.add_done_callback(self._replaced.pop)
        self._channel = _channel(self.url)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Cancel all calls and close the connections."""
        for closing in self._replaced:
            closing.cancel()
        await asyncio.gather(
            *(channel.close() for channel in (self._channel, *self._replaced.values()))
        )

    async def alive(self, timeout: float = 1.0) -> bool:
        """Whether the server inferences at all."""
        try:
            reply = await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.live)

    async def models(self, timeout: float = 5.0) -> list[Model]:
        """All models that are loaded, sorted by name. The error's sentence is for the log: it says what gRPC says."""
        try:
            # Not RepositoryIndex: it leaves out what is loaded but no longer on disk, an older version say.
            loaded = await self._stub.ModelStatistics(
                service_pb2.ModelStatisticsRequest(), timeout=timeout
            )
            found = [
                await self._model(name, timeout)
                for name in {statistics.name for statistics in loaded.model_stats}
            ]
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(
                f"Triton at {self.url} does not answer: {error.details()}"
            ) from error
        return sorted((model for model in found if model is not None), key=lambda model: model.name)

    async def _model(self, name: str, timeout: float) -> Model | None:
        """None where it has been unloaded this very moment."""
        try:
            reply = await self._stub.ModelConfig(
                service_pb2.ModelConfigRequest(name=name), timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            if "unknown model" in (error.details() or ""):
                return None
            raise
        return model_of(reply.config)

    async def load(self, name: str, config_json: str | None = None, timeout: float = 60.0) -> None:
        """Load a model; `config_json` replaces its config.pbtxt (explicit model control)."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        if config_json is not None:
            request.parameters["config"].string_param = config_json
        try:
            await self._stub.RepositoryModelLoad(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(f"Triton cannot load {name}: {error.details()}") from error

    async def unload(self, name: str, timeout: float = 30.0) -> None:
        """Unload a model: loading one again that Triton believes loaded would change nothing."""
        try:
            await self._stub.RepositoryModelUnload(
                service_pb2.RepositoryModelUnloadRequest(model_name=name), timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(f"Triton cannot unload {name}: {error.details()}") from error

    async def infer(
        self, model: Model, array: NDArray[Any], *, under_way: UnderWay = nobody
    ) -> Inference:
        """array: [n, *model.input.shape], of its dtype; the output is [n, *model.output.shape].

        What several callers ask at the same time goes to Triton as one request, and Triton joins what waits there. More than a request
        may hold goes as several at once. Who is cancelled leaves at once, but what was sent is answered all the same.
        under_way: is given each request, which is done when the engine is done with it.
        Raises EngineUnavailable, also when the answer is not of `model.output`'s size; Overloaded (its queue is full).
        """
        started = time.perf_counter()
        self.health.for_model(model)  # asked from now on
        try:
            with tracing.engine(model.name) as metadata:
                most = model.largest_request
                if len(array) <= most:
                    return await self._send(model, array, metadata, under_way)
                parts = np.split(array, range(most, len(array), most))
                inferences = await asyncio.gather(
                    *(self._send(model, part, metadata, under_way) for part in parts)
                )
                slowest = max(
                    inferences,
                    key=lambda one: (one.queue_seconds or 0.0) + one.compute_seconds,
                )
                return replace(
                    slowest, output=np.concatenate([inference.output for inference in inferences])
                )
        except asyncio.CancelledError:
            self.health.record_abandoned(model, started)
            raise

    async def _send(
        self,
        model: Model,
        array: NDArray[Any],
        metadata: tracing.Metadata | None,
        under_way: UnderWay,
    ) -> Inference:
        if metadata is None:
            return await self._batchers[model.name].infer(model, array, under_way)
        # Of a trace: alone, for a request has room for one context.
        answer = asyncio.create_task(self._infer(model, array, metadata))
        under_way(answer)
        try:
            return await asyncio.shield(answer)
        finally:
            leave(answer)

    async def _infer(
        self, model: Model, array: NDArray[Any], metadata: tracing.Metadata | None = None
    ) -> Inference:
        request = request_of(model, {model.input.name: array})
        started = time.perf_counter()
        try:
            reply = await self._stub.ModelInfer(request, metadata=metadata)
        except asyncio.CancelledError:  # ABANDONED_TIMEOUT after its last caller left
            self.health.record_abandoned(model, started)
            raise
        except grpc.aio.AioRpcError as error:
            raise self.health.failure(model, started, error.details() or "") from error
        answered = self.health.for_model(model)
        answered.record_reply(started, len(array))
        elapsed = answered.at - started
        raw = {
            output.name: content
            for output, content in zip(reply.outputs, reply.raw_output_contents, strict=False)
        }
        content = raw.get(model.output.name, b"")
        due = len(array) * model.output.nbytes
        if len(content) != due:
            self.health.suspect(model.name, started)
            raise EngineUnavailable(
                f"the engine answered {len(content)} bytes where {due} were due",
                RETRY_AFTER_SECONDS,
            )
        output = np.frombuffer(content, model.output.dtype).reshape(len(array), *model.output.shape)
        execution = np.frombuffer(raw.get(EXECUTION, b""), np.int64)
        if execution.size != 2 * len(array):
            return Inference(output, None, elapsed)
        nanoseconds, images = execution[:2]  # the same for each entry
        answered.execution = max(answered.execution, nanoseconds / 1e9)
        for _ in array:
            metrics.BATCH_SIZE.labels(model.name).observe(images)
        compute = min(elapsed, nanoseconds / 1e9)
        return Inference(output, elapsed - compute, compute)
