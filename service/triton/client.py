"""Triton: the gRPC client of one tritonserver: connection, models, inference, load and unload."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
from channeltok.loopback import proxy_options
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable
from service.observability import tracing
from service.triton.batching import MAX_HOLD_SECONDS, Batcher
from service.triton.detached import ABANDONED_TIMEOUT, DetachedCall, PermitLike
from service.triton.health import OVERTAKEN_SECONDS, EngineHealth
from service.triton.inference import InferenceClient
from service.triton.models import Inference, Model, is_ours, model_of
from service.triton.servers import count_servers
from service.triton.streaming import StreamingClient


def _channel(url: str) -> Any:
    return grpc.aio.insecure_channel(
        url,
        options=[
            ("grpc.max_receive_message_length", 64 * 2**20),
            # Triton restarts within a second; the default waits 1 s before the second try.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
            # A restarted Triton must not inherit the backoff of its predecessor.
            ("grpc.use_local_subchannel_pool", 1),
            # If a name resolves to several Tritons, each call takes the next, not always the first.
            ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
            *proxy_options(url),
        ],
    )


class Triton:
    """Client of one tritonserver. Its methods raise EngineUnavailable if it is unreachable."""

    def __init__(
        self,
        url: str,
        *,
        max_hold_seconds: float = MAX_HOLD_SECONDS,
        abandoned_timeout: float = ABANDONED_TIMEOUT,
        overtaken_seconds: float = OVERTAKEN_SECONDS,
    ) -> None:
        """url: host:port or unix:PATH. The seconds are explained where their defaults are."""
        self.url = url
        self.health = EngineHealth(overtaken_seconds)
        self._abandoned_timeout = abandoned_timeout
        self._inference = InferenceClient(lambda: self._stub, self.health)
        self._batchers: dict[str, Batcher] = defaultdict(  # by model
            lambda: Batcher(
                self._inference.infer,
                max_hold_seconds=max_hold_seconds,
                abandoned_timeout=abandoned_timeout,
            )
        )
        self.streams = StreamingClient(lambda: self._stub, self.health, abandoned_timeout)
        # Tasks that close replaced channels -> the channel, until its calls have ended.
        self._replaced: dict[asyncio.Task[None], Any] = {}
        self._connect()

    def _connect(self) -> None:
        self._channel = _channel(self.url)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def reconnect(self) -> None:
        """Use a new channel from now on; running calls finish on the old one.

        gRPC waits up to two minutes before it resolves a name again that it could not resolve, or
        whose server moved. A new channel resolves it at once.
        """
        closing = asyncio.create_task(self._channel.close(self._abandoned_timeout))
        self._replaced[closing] = self._channel
        closing.add_done_callback(self._replaced.pop)
        self._connect()

    async def close(self) -> None:
        """Cancel all calls and close the connections."""
        for closing in self._replaced:
            closing.cancel()
        await asyncio.gather(
            *(channel.close() for channel in (self._channel, *self._replaced.values()))
        )

    async def alive(self, timeout: float = 1.0) -> bool:
        """Whether the server answers its liveness check; says nothing about its models."""
        try:
            reply = await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.live)

    async def models(self, timeout: float = 5.0) -> list[Model]:
        """Return our loaded models, sorted by name. The error's message is for the log only."""
        try:
            # Not RepositoryIndex: it omits models that are loaded but no longer on disk, such as
            # an older version.
            loaded = await self._stub.ModelStatistics(
                service_pb2.ModelStatisticsRequest(), timeout=timeout
            )
            tritons = await count_servers(self.url)
            models = [
                await self._model(name, tritons, timeout)
                for name in {statistics.name for statistics in loaded.model_stats}
            ]
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(
                f"Triton at {self.url} does not answer: {error.details()}"
            ) from error
        return sorted(
            (model for model in models if model is not None), key=lambda model: model.name
        )

    async def _model(self, name: str, tritons: int, timeout: float) -> Model | None:
        """Return None if the model has just been unloaded, or is not ours."""
        try:
            reply = await self._stub.ModelConfig(
                service_pb2.ModelConfigRequest(name=name), timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            if "unknown model" in (error.details() or ""):
                return None
            raise
        if not is_ours(reply.config):
            return None
        return replace(model_of(reply.config), tritons=tritons)

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
        """Unload a model, because loading one that Triton believes loaded changes nothing."""
        try:
            await self._stub.RepositoryModelUnload(
                service_pb2.RepositoryModelUnloadRequest(model_name=name), timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(f"Triton cannot unload {name}: {error.details()}") from error

    async def infer(
        self, model: Model, array: NDArray[Any], *, permit: PermitLike | None = None
    ) -> Inference:
        """Run an array [n, *model.input.shape]; the output is [n, *model.output.shape].

        Concurrent calls share requests (see Batcher); an array larger than a request may be is
        split. Cancelling the caller returns immediately; a request already sent still completes,
        and `permit` is held until then.
        Raises EngineUnavailable, also for an output of the wrong size; Overloaded if Triton's
        queue is full.
        """
        started = time.perf_counter()
        self.health.for_model(model)  # silence counts from the first request
        try:
            with tracing.engine_span(model.name) as metadata:
                limit = model.largest_request
                if len(array) <= limit:
                    return await self._send(model, array, metadata, permit)
                # The same number of parts for each instance, of about one size: they end together.
                requests = -(-len(array) // limit)
                requests += -requests % (model.tritons * model.instances)
                parts = np.array_split(array, min(requests, len(array)))
                inferences = await asyncio.gather(
                    *(self._send(model, part, metadata, permit) for part in parts)
                )
                slowest = max(
                    inferences,
                    key=lambda part: (part.queue_seconds or 0.0) + part.compute_seconds,
                )
                return replace(
                    slowest, output=np.concatenate([inference.output for inference in inferences])
                )
        except asyncio.CancelledError:
            self.health.record_abandoned(model, started)
            raise

    def _send(
        self,
        model: Model,
        array: NDArray[Any],
        metadata: tracing.Metadata | None,
        permit: PermitLike | None,
    ) -> Coroutine[Any, Any, Inference]:
        if metadata is None:
            return self._batchers[model.name].infer(model, array, permit)
        # A traced call is not batched: a request carries a single trace context.
        call = DetachedCall(self._inference.infer(model, array, metadata), self._abandoned_timeout)
        return call.result(permit)
