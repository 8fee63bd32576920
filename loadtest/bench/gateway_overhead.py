"""Latency and core time that the gateway adds to Triton.

The same load generator calls both in turn. Triton gets prepared pixels or ids, in the request that
the gateway would send; the gateway gets a JPEG and returns token bytes, or the reverse.
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from onnx import TensorProto, helper

from export.graphs.graph import OPSET, ModelMetadata
from export.triton import repository
from loadtest.harness import process_stats
from loadtest.harness.service_process import Service, running
from loadtest.load.capacity_search import CLIENTS
from loadtest.load.open_loop import Generators, Grpc, together
from loadtest.load.targets import gateway_targets, triton_targets

ROLES = ("encode", "decode")
SIZE, CHANNELS = 128, 256  # of the identity model: those of the demo tokenizer


@dataclass(frozen=True)
class Latency:
    """Latency in seconds of a single client, for Triton alone and through the gateway."""

    triton_p50: float
    triton_p99: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Throughput:
    """Images/s, and images per second of core time of all processes but the clients,
    for Triton alone and through the gateway."""

    triton_per_second: float
    triton_per_core: float
    per_second: float
    per_core: float


def latency(generators: Generators, rounds: int, seconds: float) -> dict[str, Latency]:
    """Latency of a single client, by role, over `rounds` alternating runs of `seconds` each."""
    with running() as service:
        alone, through_gateway = triton_targets(service), gateway_targets(service.grpc)
        latencies = {}
        for role in ROLES:
            rows = [
                [
                    generators.closed_loop(target, 1, seconds).result()
                    for target in (alone[role], through_gateway[role])
                ]
                for _ in range(rounds)
            ]
            latencies[role] = Latency(
                *(
                    report.latency(percentile)
                    for report in (together(reports) for reports in zip(*rows, strict=True))
                    for percentile in (50, 99)
                )
            )
    return latencies


def identity(generators: Generators, rounds: int, seconds: float) -> dict[str, Throughput]:
    """Throughput with a model that computes nothing, by role: 16 clients, medians of `rounds`
    alternating runs of `seconds` each."""
    with identity_models() as models, running(model_repository=models) as service:
        targets = triton_targets(service), gateway_targets(service.grpc)
        throughputs = {}
        for role in ROLES:
            rows = [
                [
                    figure
                    for target in targets
                    for figure in _throughput(service, generators, target[role], seconds)
                ]
                for _ in range(rounds)
            ]
            medians = (statistics.median(column) for column in zip(*rows, strict=True))
            throughputs[role] = Throughput(*medians)
    return throughputs


@contextmanager
def identity_models() -> Iterator[str]:
    """A model repository, until the end of `with`: a tokenizer that computes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        graphs = [graph.SerializeToString() for graph in (_encode(), _decode())]
        repository.write(models, "identity", graphs)
        yield str(models)


def _throughput(
    service: Service, generators: Generators, target: Grpc, seconds: float
) -> tuple[float, float]:
    """(images/s, images per second of core time)"""
    before = _core_seconds(service)
    report = generators.closed_loop(target, CLIENTS, seconds).result()
    assert set(report.counts()) == {target.good}, report.counts()
    return report.goodput, len(report.codes) / (_core_seconds(service) - before)


def _core_seconds(service: Service) -> float:
    return sum(process_stats.cpu(service.process.pid).values())


def _encode() -> onnx.ModelProto:
    """image uint8 [N, S, S, 3] -> tokens int32 [N, C]: the image's first C bytes."""
    nodes = [
        helper.make_node("Flatten", ["picture"], ["bytes"]),
        helper.make_node("Slice", ["bytes", "zero", "channels", "one"], ["first"]),
        helper.make_node("Cast", ["first"], ["tokens"], to=TensorProto.INT32),
    ]
    return _graph("encode", nodes, {"zero": [0], "one": [1], "channels": [CHANNELS]})


def _decode() -> onnx.ModelProto:
    """tokens int32 [N, C] -> image uint8 [N, S, S, 3]: the tokens' low bytes, repeated."""
    nodes = [
        helper.make_node("Cast", ["tokens"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Tile", ["bytes", "times"], ["many"]),
        helper.make_node("Reshape", ["many", "shape"], ["picture"]),
    ]
    constants = {"times": [1, SIZE * SIZE * 3 // CHANNELS], "shape": [-1, SIZE, SIZE, 3]}
    return _graph("decode", nodes, constants)


def _graph(
    role: Literal["encode", "decode"], nodes: list[onnx.NodeProto], constants: dict[str, list[int]]
) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("picture", TensorProto.UINT8, ("batch", SIZE, SIZE, 3))
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT32, ("batch", CHANNELS))
    inputs, outputs = ([image], [tokens]) if role == "encode" else ([tokens], [image])
    weights = [
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        for name, values in constants.items()
    ]
    graph = helper.make_graph(nodes, "identity", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    metadata = ModelMetadata("identity", role, CHANNELS, SIZE, CHANNELS, "1d" * 8)
    helper.set_model_props(model, metadata.as_strings())
    onnx.checker.check_model(model, full_check=True)
    return model
