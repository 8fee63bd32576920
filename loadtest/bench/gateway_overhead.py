"""What the gateway adds to Triton: latency for one caller, and core time where the model costs nothing.

Both are asked by the same generator, in turns. Triton gets pixels or ids that are ready, in the request that the gateway would send it; the
gateway gets a JPEG, or token bytes, and answers with token bytes, or a JPEG.
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import psutil
from channeltok import Client
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2

import imaging
from export.graphs.graph import OPSET, ModelMetadata
from export.triton import repository
from loadtest.bench.capacity import targets
from loadtest.bench.throughput import photos
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import Generators, Grpc, together

INFER = "/inference.GRPCInferenceService/ModelInfer"
ROLES = ("encode", "decode")
CALLERS = 16
SIZE, CHANNELS = 128, 256  # of the identity model: the demo's


@dataclass(frozen=True)
class Added:
    """Seconds of latency of one caller, of Triton alone and with the gateway before it."""

    triton_p50: float
    triton_p99: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Carried:
    """Images/s, and images per second of core time of all processes but the callers', of Triton alone and with the gateway."""

    triton_per_second: float
    triton_per_core: float
    per_second: float
    per_core: float


def triton_targets(service: Service) -> dict[str, Grpc]:
    """The service's own Triton, asked directly: what a gateway could carry at most."""
    jpegs = photos()
    with Client(service.grpc) as client:
        tokenizer = client.tokenizers()[0]
        tokens = [client.encode(jpeg).ids for jpeg in jpegs]
    name, k = tokenizer.name, tokenizer.max_tokens
    pixels = [imaging.prepare(jpeg, tokenizer.image_size) for jpeg in jpegs]
    address = service.triton_address()
    encode = tuple(_request(f"{name}_encode", "picture", "UINT8", one) for one in pixels)
    decode = tuple(
        _request(f"{name}_decode_k{k}", "tokens", "INT32", one.astype(np.int32)) for one in tokens
    )
    return {"encode": Grpc(address, INFER, encode), "decode": Grpc(address, INFER, decode)}


def latency(generators: Generators, rounds: int, seconds: float) -> dict[str, Added]:
    """Of one caller, by role: over all calls of `rounds` stretches of `seconds`, in turns."""
    with running() as service:
        alone, before_it = triton_targets(service), targets(service.grpc)
        added = {}
        for role in ROLES:
            turns = [
                [
                    generators.closed_loop(target, 1, seconds).result()
                    for target in (alone[role], before_it[role])
                ]
                for _ in range(rounds)
            ]
            triton, gateway = (together(reports) for reports in zip(*turns, strict=True))
            added[role] = Added(
                *(
                    report.latency(percentile)
                    for report in (triton, gateway)
                    for percentile in (50, 99)
                )
            )
    return added


def identity(generators: Generators, rounds: int, seconds: float) -> dict[str, Carried]:
    """With a model that computes nothing, by role: medians of `rounds` stretches of `seconds`, in turns, with 16 callers."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        repository.write(
            models, "identity", [graph.SerializeToString() for graph in (_encode(), _decode())]
        )
        with running(model_repository=str(models)) as service:
            alone, before_it = triton_targets(service), targets(service.grpc)
            carried = {}
            for role in ROLES:
                turns = [
                    [
                        _carried(service, generators, target[role], seconds)
                        for target in (alone, before_it)
                    ]
                    for _ in range(rounds)
                ]
                columns = zip(*((*triton, *gateway) for triton, gateway in turns), strict=True)
                carried[role] = Carried(*(statistics.median(column) for column in columns))
    return carried


def _carried(
    service: Service, generators: Generators, target: Grpc, seconds: float
) -> tuple[float, float]:
    before = _core_seconds(service)
    report = generators.closed_loop(target, CALLERS, seconds).result()
    assert set(report.counts()) == {target.good}, report.counts()
    return report.goodput, len(report.codes) / (_core_seconds(service) - before)


def _core_seconds(service: Service) -> float:
    times = [
        process.cpu_times()
        for process in (psutil.Process(service.process.pid), *service.children())
    ]
    return float(sum(one.user + one.system for one in times))


def _request(model: str, name: str, datatype: str, array: NDArray[np.generic]) -> bytes:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=(1, *array.shape)
    )
    request = service_pb2.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()]
    )
    return bytes(request.SerializeToString())


def _encode() -> onnx.ModelProto:
    """image uint8 [N, S, S, 3] -> tokens int32 [N, C]: its first C bytes."""
    nodes = [
        helper.make_node("Flatten", ["picture"], ["bytes"]),
        helper.make_node("Slice", ["bytes", "zero", "channels", "one"], ["first"]),
        helper.make_node("Cast", ["first"], ["tokens"], to=TensorProto.INT32),
    ]
    constants = {"zero": [0], "one": [1], "channels": [CHANNELS]}
    return _graph(
        nodes,
        constants,
        ("picture", TensorProto.UINT8, (SIZE, SIZE, 3)),
        ("tokens", TensorProto.INT32, (CHANNELS,)),
    )


def _decode() -> onnx.ModelProto:
    """tokens int32 [N, C] -> image uint8 [N, S, S, 3]: their low bytes, again and again."""
    nodes = [
        helper.make_node("Cast", ["tokens"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Tile", ["bytes", "times"], ["many"]),
        helper.make_node("Reshape", ["many", "shape"], ["picture"]),
    ]
    constants = {"times": [1, SIZE * SIZE * 3 // CHANNELS], "shape": [-1, SIZE, SIZE, 3]}
    return _graph(
        nodes,
        constants,
        ("tokens", TensorProto.INT32, (CHANNELS,)),
        ("picture", TensorProto.UINT8, (SIZE, SIZE, 3)),
    )


def _graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, list[int]],
    taken: tuple[str, int, tuple[int, ...]],
    given: tuple[str, int, tuple[int, ...]],
) -> onnx.ModelProto:
    tensors = [
        helper.make_tensor_value_info(name, kind, ("batch", *shape))
        for name, kind, shape in (taken, given)
    ]
    weights = [
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        for name, values in constants.items()
    ]
    graph = helper.make_graph(nodes, "identity", tensors[:1], tensors[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    role: Literal["encode", "decode"] = "encode" if taken[0] == "picture" else "decode"
    helper.set_model_props(
        model, ModelMetadata("identity", role, CHANNELS, SIZE, CHANNELS, "1d" * 8).as_strings()
    )
    onnx.checker.check_model(model, full_check=True)
    return model
