"""Talking to Triton over its gRPC API: what is served, inference, loading, statistics."""

import asyncio
import math
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from service import metrics, tracing
from service.errors import DeadlineExceeded, EngineUnavailable, Overloaded, ServiceError

RETRY_AFTER_SECONDS = 2.0
_DTYPES: dict[int, tuple[str, type[np.generic]]] = {
    model_config_pb2.TYPE_UINT8: ("UINT8", np.uint8),
    model_config_pb2.TYPE_INT32: ("INT32", np.int32),
    model_config_pb2.TYPE_INT64: ("INT64", np.int64),
    model_config_pb2.TYPE_FP32: ("FP32", np.float32),
}
_DTYPE_OF = dict(_DTYPES.values())
_DATATYPES = {np.dtype(dtype): datatype for datatype, dtype in _DTYPES.values()}
# Tensor in which our python-backend models report how the graph ran, int64: nanoseconds, pictures in the batch. Others do not have it.
EXECUTION = "execution"
OVERTAKEN_SECONDS = 5.0
# What is asked of an engine is not cancelled when its caller leaves, because Triton may die of it (docs/decisions/0033-leaving.md); only
# what is not answered for so long after is given up.
LEFT_SECONDS = 60.0
# Of the event loop, until what is asked of one model goes to Triton: microseconds where nothing else is to be done, and while other calls
# are read and their pictures prepared, long enough for them to come along.
TURNS = 8


UnderWay = Callable[[asyncio.Task[Any]], None]  # is given work in the engine, which goes on when its caller has left


def _nobody(work: asyncio.Task[Any]) -> None:
    pass


@dataclass(frozen=True)
class Tensor:
    """Name, Triton datatype, numpy dtype and shape without the batch axis."""

    name: str
    datatype: str
    dtype: type[np.generic]
    shape: tuple[int, ...]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one entry."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Model:
    """One Triton model as its config.pbtxt describes it.

    parameters: the facts export/ wrote there. largest_request: pictures in a request at most, so that all instances get some.
    """

    name: str
    input: Tensor
    output: Tensor
    parameters: dict[str, str]
    largest_request: int = 1

    @property
    def codes(self) -> int:
        """How many ids a token may have: 0 to codes - 1. Said where they are fewer than the bits of a token hold."""
        return int(self.parameters.get("codes", 2 ** int(self.parameters["bits_per_token"])))

    @property
    def engine(self) -> str:
        """What computes it, and in which arithmetic: "openvino bf16", say."""
        return " ".join(filter(None, (self.parameters.get("engine"), self.parameters.get("precision"))))


@dataclass(frozen=True)
class Inference:
    """Output of one inference. queue_seconds is None where the backend does not report its own time; compute_seconds has it then."""

    output: NDArray[Any]
    queue_seconds: float | None
    compute_seconds: float


@dataclass
class _Answered:
    """Of a model's inferences that were answered: when the latest was sent, when the last answer came, and how many there were.

    owing: a stream was left before its end; then `at` counts on, whoever asks next.
    """

    sent: float
    at: float
    count: int = 0
    owing: bool = False


class Triton:
    """Client of one tritonserver. Every method raises EngineUnavailable when it cannot be reached."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Models whose inference failed for a cause of theirs -> when the last such one was sent; the supervisor looks after them.
        self.suspects: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}
        self._answered: dict[str, _Answered] = {}
        self._streams: dict[str, int] = defaultdict(int)  # those that are waited for, by model
        self._readings: dict[str, set[asyncio.Task[None]]] = defaultdict(set)  # of all that are open, also where nobody waits
        self._groups: dict[str, _Group] = {}  # those that still take more, by model
        self._channel = grpc.aio.insecure_channel(
            url,
            options=[
                ("grpc.max_receive_message_length", 64 * 2**20),
                # Triton comes up within a second, also after a restart: the default waits 1 s before the second try.
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.use_local_subchannel_pool", 1),  # a restarted Triton must not inherit the backoff of the dead one
                # Where a name stands for several Tritons: all of them, call by call, and not the first for ever.
                ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
            ],
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def alive(self, timeout: float = 1.0) -> bool:
        """Whether the server answers at all."""
        try:
            reply = await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.live)

    async def models(self, timeout: float = 5.0) -> list[Model]:
        """All models that are loaded, sorted by name."""
        try:
            # Not RepositoryIndex: it leaves out what is loaded but no longer on disk, an older version say.
            loaded = await self._stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=timeout)
            found = [await self._model(name, timeout) for name in {statistics.name for statistics in loaded.model_stats}]
        except grpc.aio.AioRpcError as error:
            raise _known(error.details() or "") from error
        return sorted((model for model in found if model is not None), key=lambda model: model.name)

    async def _model(self, name: str, timeout: float) -> Model | None:
        """None where it has been unloaded this very moment."""
        try:
            reply = await self._stub.ModelConfig(service_pb2.ModelConfigRequest(name=name), timeout=timeout)
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
            await self._stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name=name), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(f"Triton cannot unload {name}: {error.details()}") from error

    def silent_seconds(self, model: Model) -> float:
        """Seconds since the model answered last, or was first asked."""
        now = time.perf_counter()
        return now - self._answered[model.name].at if model.name in self._answered else 0.0

    def answers(self, model: Model) -> int:
        """Inferences that it answered so far."""
        return self._answered[model.name].count if model.name in self._answered else 0

    def failed(self, model: Model) -> float:
        """When somebody last got no answer from it, in seconds of time.perf_counter; -inf where all did."""
        return self._failed_at.get(model.name, -math.inf)

    def suspect(self, model: Model, sent: float) -> None:
        """To be looked after: what was asked of it at `sent` failed, for a cause of its own."""
        self.suspects[model.name] = sent
        self._failed_at[model.name] = time.perf_counter()

    async def infer(self, model: Model, array: NDArray[Any], timeout: float | None = None, *, under_way: UnderWay = _nobody) -> Inference:
        """array: [n, *model.input.shape], of its dtype; the output is [n, *model.output.shape].

        What several callers ask in one turn of the event loop goes to Triton as one request, and Triton joins what waits there. More
        than a request may hold goes as several at once. Who leaves, or whose time is up, is let go at once, but what was sent is
        answered all the same. under_way: is given each request, which is done when the engine is done with it.
        Raises EngineUnavailable, also when the answer is not of `model.output`'s size; Overloaded (its queue is full);
        DeadlineExceeded after `timeout` seconds.
        """
        started = time.perf_counter()
        answered = self._answered.setdefault(model.name, _Answered(sent=0.0, at=started))
        try:
            async with asyncio.timeout(timeout):
                with tracing.engine(model.name) as metadata:
                    most = model.largest_request
                    if len(array) <= most:
                        return await self._send(model, array, metadata, under_way)
                    parts = np.split(array, range(most, len(array), most))
                    answers = await asyncio.gather(*(self._send(model, part, metadata, under_way) for part in parts))
                    slowest = max(answers, key=lambda answer: (answer.queue_seconds or 0.0) + answer.compute_seconds)
                    return replace(slowest, output=np.concatenate([answer.output for answer in answers]))
        except TimeoutError as error:
            # Triton takes what waits in turn. Where a call times out that younger ones have long overtaken, an engine process hangs.
            if answered.sent - started > OVERTAKEN_SECONDS:
                self.suspect(model, started)
            self._failed_at[model.name] = time.perf_counter()
            raise DeadlineExceeded("the deadline passed while the engine worked") from error

    async def stream(
        self, model: Model, inputs: Mapping[str, NDArray[Any]], *, under_way: UnderWay = _nobody
    ) -> AsyncGenerator[dict[str, NDArray[Any]], None]:
        """What a generator answers, output by name, one dictionary for each response as it comes.

        Each call is a stream of its own. Closing the iterator tells the model to stop (a request of the same id and length 0). Iterate
        within `contextlib.aclosing`. under_way: is given what is done when the model has stopped.
        Raises EngineUnavailable, also in the middle; Overloaded.
        """
        started = latest = time.perf_counter()
        answered = self._answered.setdefault(model.name, _Answered(sent=0.0, at=started))
        if not self._streams[model.name] and not answered.owing:
            answered.at = started  # it was asked nothing before, and so was not silent
        self._streams[model.name] += 1
        answered.owing = True
        complete = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[Any]:
            sequence = uuid.uuid4().hex
            yield _request(model, inputs, sequence)
            if not await complete:
                yield _request(model, {**inputs, "length": np.zeros(1, np.int32)}, sequence)

        replies: asyncio.Queue[Any] = asyncio.Queue()
        with tracing.engine(model.name) as metadata:
            reading = asyncio.create_task(self._read(self._stub.ModelStreamInfer(requests(), metadata=metadata), answered, replies))
        self._readings[model.name].add(reading)
        reading.add_done_callback(self._readings[model.name].discard)
        under_way(reading)
        try:
            while (reply := await replies.get()) is not None:
                if isinstance(reply, grpc.aio.AioRpcError):
                    raise self._failed(model, started, reply.details() or "") from reply
                if reply.error_message:
                    raise self._failed(model, started, reply.error_message)
                latest = time.perf_counter()
                if reply.infer_response.outputs:
                    yield {
                        output.name: np.frombuffer(content, _DTYPE_OF[output.datatype]).reshape(output.shape)
                        for output, content in zip(reply.infer_response.outputs, reply.infer_response.raw_output_contents, strict=True)
                    }
                if _is_final(reply):
                    complete.set_result(True)
                    return
            raise self._failed(model, started, "its stream ended early")
        finally:
            self._streams[model.name] -= 1
            if not complete.done():
                complete.set_result(False)
            _leave(reading)
            if answered.sent - latest > OVERTAKEN_SECONDS:  # younger ones were answered meanwhile: the process that has this one hangs
                self.suspect(model, started)

    async def _read(self, call: Any, answered: "_Answered", replies: asyncio.Queue[Any]) -> None:
        """What comes, to the end: a reply each, an error in place of the rest, None. In a task of its own, because gRPC cancels a call
        whose reader is cancelled."""
        started = time.perf_counter()
        try:
            async for reply in call:
                answered.at = time.perf_counter()
                answered.sent = max(started, answered.sent)
                answered.count += 1
                if _is_final(reply):
                    answered.owing = False
                replies.put_nowait(reply)
        except grpc.aio.AioRpcError as error:
            replies.put_nowait(error)
        finally:
            replies.put_nowait(None)

    def end_streams(self, name: str) -> None:
        """Of a model whose process is gone: Triton would never end them. Who waits gets EngineUnavailable."""
        for reading in list(self._readings[name]):
            reading.cancel()

    def streaming(self, model: Model) -> bool:
        """Whether answers of `stream` are waited for."""
        return self._streams[model.name] > 0

    def _failed(self, model: Model, started: float, details: str) -> ServiceError:
        """What callers are told of an inference that Triton says this of; the model is looked after where the fault is its own."""
        known = _known(details)
        known.add_note(f"Triton says: {details}")  # for the log; callers see `detail` only
        if isinstance(known, EngineUnavailable):
            self.suspect(model, started)
        return known

    async def _send(self, model: Model, array: NDArray[Any], metadata: tracing.Metadata | None, under_way: UnderWay) -> Inference:
        if metadata is None:
            return await self._together(model, array, under_way)
        # Of a trace: alone, for a request has room for one context.
        answer = asyncio.create_task(self._infer(model, array, metadata))
        under_way(answer)
        try:
            return await asyncio.shield(answer)
        finally:
            _leave(answer)

    async def _together(self, model: Model, array: NDArray[Any], under_way: UnderWay) -> Inference:
        group = self._groups.get(model.name)
        if group is None or group.size + len(array) > model.largest_request:
            group = self._groups[model.name] = _Group()
            group.answer = asyncio.create_task(self._ask(model, group))  # begins in the next turn of the loop
        under_way(group.answer)
        first = group.size
        group.arrays.append(array)
        group.size += len(array)
        group.waiting += 1
        try:
            inference = await asyncio.shield(group.answer)
        finally:
            group.waiting -= 1
            if not group.waiting:  # all have their answer, or have gone away
                if group.sent:
                    _leave(group.answer)
                else:
                    self._close(model, group)
                    group.answer.cancel()
        return replace(inference, output=inference.output[first : first + len(array)])

    async def _ask(self, model: Model, group: "_Group") -> Inference:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self._close(model, group)
        group.sent = True
        return await self._infer(model, group.arrays[0] if len(group.arrays) == 1 else np.concatenate(group.arrays))

    def _close(self, model: Model, group: "_Group") -> None:
        if self._groups.get(model.name) is group:
            del self._groups[model.name]

    async def _infer(self, model: Model, array: NDArray[Any], metadata: tracing.Metadata | None = None) -> Inference:
        request = _request(model, {model.input.name: array})
        started = time.perf_counter()
        try:
            reply = await self._stub.ModelInfer(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._failed(model, started, error.details() or "") from error
        answered = self._answered[model.name]
        answered.at = time.perf_counter()
        answered.sent = max(started, answered.sent)
        answered.count += len(array)
        elapsed = answered.at - started
        raw = {output.name: content for output, content in zip(reply.outputs, reply.raw_output_contents, strict=False)}
        content = raw.get(model.output.name, b"")
        due = len(array) * model.output.nbytes
        if len(content) != due:
            self.suspect(model, started)
            raise EngineUnavailable(f"the engine answered {len(content)} bytes where {due} were due", RETRY_AFTER_SECONDS)
        output = np.frombuffer(content, model.output.dtype).reshape(len(array), *model.output.shape)
        execution = np.frombuffer(raw.get(EXECUTION, b""), np.int64)
        if execution.size != 2 * len(array):
            return Inference(output, None, elapsed)
        nanoseconds, pictures = execution[:2]  # the same for each entry
        for _ in array:
            metrics.BATCH_PICTURES.labels(model.name).observe(pictures)
        compute = min(elapsed, nanoseconds / 1e9)
        return Inference(output, elapsed - compute, compute)


@dataclass
class _Group:
    """Arrays that go to one model as one request. size: pictures in them. waiting: callers who still do. sent: no others can join them."""

    arrays: list[NDArray[Any]] = field(default_factory=list)
    size: int = 0
    waiting: int = 0
    sent: bool = False
    answer: asyncio.Task[Inference] = field(init=False)


def _request(model: Model, inputs: Mapping[str, NDArray[Any]], sequence: str = "") -> Any:
    """A ModelInferRequest. sequence: its id, by which a second one can stop it."""
    request = service_pb2.ModelInferRequest(
        model_name=model.name,
        id=sequence,
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=_DATATYPES[array.dtype], shape=array.shape)
            for name, array in inputs.items()
        ],
        # Raw bytes: typed contents cost 500 times the time of a memory copy.
        raw_input_contents=[array.tobytes() for array in inputs.values()],
    )
    if sequence:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def _is_final(reply: Any) -> bool:
    return bool(reply.infer_response.parameters["triton_final_response"].bool_param)


def _leave(work: asyncio.Task[Any]) -> None:
    """To be done with nobody waiting for it."""
    if not work.done():
        timer = asyncio.get_running_loop().call_later(LEFT_SECONDS, work.cancel)
        work.add_done_callback(lambda _: timer.cancel())


def model_of(config: Any) -> Model:
    """From a ModelConfig, as Triton tells it or a config.pbtxt holds it."""
    outputs = [_tensor(output) for output in config.output]
    return Model(
        name=config.name,
        input=_tensor(config.input[0]),
        output=next(tensor for tensor in outputs if tensor.name != EXECUTION),
        parameters={name: value.string_value for name, value in config.parameters.items()},
        largest_request=next(iter(config.dynamic_batching.preferred_batch_size), max(1, config.max_batch_size)),
    )


def _tensor(config: Any) -> Tensor:
    datatype, dtype = _DTYPES[config.data_type]
    return Tensor(config.name, datatype, dtype, tuple(config.dims))


def _known(details: str) -> ServiceError:
    """What Triton says in ours. It says UNAVAILABLE for a full queue, which must not look like an outage."""
    if "maximum queue size" in details:
        return Overloaded("the engine's queue is full: try again", RETRY_AFTER_SECONDS)
    return EngineUnavailable("the engine is down or restarting: try again", RETRY_AFTER_SECONDS)
