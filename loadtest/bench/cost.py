"""`make cost`: core time per image by clients, budget, JPEG size and batch, with a cost model.

The model is fitted to a few cells and compared with all others; the error is printed:

    core ms per image  = graph + gateway and the rest + slope * megapixels beyond 256 x 256
    images/s           = min(clients / latency of one client, cores / core ms)
    ms per batch of B  = fixed + each * B                          (the bare graph on all cores)

Core ms are measured CPU time of the service and the clients, as both share the cores. All cells are
closed loops of --seconds in one run.
"""

import argparse
import time
import urllib.request
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from channeltok import Client, Tokens
from channeltok.v1 import tokenizer_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families

import imaging
from loadtest.harness import images, process_stats
from loadtest.harness.bare_graph import CORES, REPOSITORY, Arrangement, BareGraph
from loadtest.harness.report import write_report
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import DECODE, ENCODE, Generators, Grpc, Report

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
BUDGETS = (32, 64, 128, 256)
SIDES = (256, 512, 1024, 2048)  # pixels of the JPEG
BATCHES = (1, 2, 4, 8, 16, 32)
STREAMED = (1, 4, 16, 32)  # images of a stream
FULL = 16  # clients that saturate both cores
HISTOGRAM_CLIENTS = (1, 4, 16, 64)
REPORT = Path("build/cost.json")


@dataclass(frozen=True)
class Cell:
    """Result of one closed loop: images/s, latencies in seconds, core ms per image by kind of
    process, bytes of a request and of a response."""

    throughput: float
    p50: float
    p99: float
    cpu: dict[str, float]
    bytes_in: float = 0.0
    bytes_out: float = 0.0

    @property
    def cost(self) -> float:
        """Core milliseconds per image, of all processes."""
        return sum(self.cpu.values())


@dataclass(frozen=True)
class Model:
    """latency: seconds of a call with one client. cost: core ms of a 256 x 256 image.
    slope: core ms per further megapixel."""

    latency: float
    cost: float
    slope: float = 0.0

    def throughput(self, clients: int, megapixels: float = 256**2 / 1e6) -> float:
        """Predicted images/s of `clients` in a closed loop."""
        more = self.slope * (megapixels - 256**2 / 1e6)
        return min(clients / (self.latency + more / 1000), CORES / (self.cost + more) * 1000)


@dataclass(frozen=True)
class Stream:
    """Load target: each call is a stream of `batch` images, all sent at once.

    bodies: serialised requests.
    """

    address: str
    method: str
    bodies: tuple[bytes, ...]
    batch: int
    good: str = "OK"

    @asynccontextmanager
    async def connected(self) -> Any:
        """Yields a `Call` on an open channel."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stream = channel.stream_stream(self.method)

            async def call(number: int) -> str:
                bodies = (
                    self.bodies[(number * self.batch + i) % len(self.bodies)]
                    for i in range(self.batch)
                )
                try:
                    replies = [reply async for reply in stream(bodies)]
                except grpc.aio.AioRpcError as error:
                    return str(error.code().name)
                return self.good if len(replies) == self.batch else "INCOMPLETE"

            yield call


class Table:
    """Measures cells, prints them and collects them for the report."""

    def __init__(self, service: Service, generators: Generators, seconds: float) -> None:
        self.cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._pid, self._generators, self._seconds = service.process.pid, generators, seconds

    def measure(self, target: Any, clients: int, images_per_call: int = 1) -> Cell:
        """Run a closed loop. SystemExit if any call failed."""
        generator = psutil.Process().children()
        before = self._cpu(generator)
        report: Report = self._generators.closed_loop(target, clients, self._seconds).result()
        after = self._cpu(generator)
        if set(report.counts()) != {report.good}:
            raise SystemExit(f"calls failed: {report.counts()}")
        count = len(report.codes) * images_per_call
        cpu = {kind: 1000 * (after[kind] - before[kind]) / count for kind in after}
        elapsed = float(report.finished.max())
        return Cell(count / elapsed, report.latency(50), report.latency(99), cpu)

    def _cpu(self, generator: list[psutil.Process]) -> dict[str, float]:
        """CPU seconds so far, by kind of process; the load generator's are "clients"."""
        times = [process.cpu_times() for process in generator if process.pid != self._pid]
        clients = sum(time.user + time.system for time in times)
        return {**process_stats.cpu(self._pid), "clients": clients}

    def add(self, role: str, axis: str, value: int, cell: Cell, predicted: float) -> None:
        """Print a row and collect it."""
        self.cells.setdefault(role, {}).setdefault(axis, [])
        error = cell.throughput / predicted - 1
        self.cells[role][axis].append(
            {axis: value, **asdict(cell), "predicted": predicted, "error": error}
        )
        size = f"{cell.bytes_in / 1e3:9.1f}{cell.bytes_out / 1e3:9.2f}" if cell.bytes_in else ""
        print(
            f"  {role:6} {axis:8} {value:5}  {cell.throughput:7.1f}  {1000 * cell.p50:7.1f}  "
            f"{1000 * cell.p99:7.1f}  {cell.cost:7.2f}  {predicted:7.1f}  {error:+7.1%}{size}",
            flush=True,
        )


HEAD = (
    f"{'images/s':>31}  {'p50 ms':>7}  {'p99 ms':>7}  {'core ms':>7}  {'model':>7}  {'error':>7}  "
    "kB in and out"
)


def main() -> None:
    """Measure, print, and write build/cost.json."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a run (%(default)s)")
    seconds = parser.parse_args().seconds
    jpegs = images.crops()
    batches: dict[str, dict[str, dict[str, int]]] = {}
    fits: dict[str, dict[str, float]] = {}
    # 64 clients wait longer than the default max_queue_seconds; nothing should be refused here.
    with running(max_queue_seconds="30") as service, Generators(1) as generators:
        with Client(service.grpc, timeout=60) as client:
            size = client.tokenizers()[0].image_size
            tokens = [client.encode(jpeg) for jpeg in jpegs]
            response_bytes = {
                "encode": {k: len(client.encode(jpegs[0], k).to_bytes()) for k in BUDGETS},
                "decode": {k: len(client.decode(tokens[0].prefix(k), "jpeg")) for k in BUDGETS},
            }
        table = Table(service, generators, seconds)
        for role, method in (("encode", ENCODE), ("decode", DECODE)):
            requests = {k: _requests(role, k, jpegs, tokens) for k in BUDGETS}
            targets = {
                k: Grpc(service.grpc, method, tuple(body.SerializeToString() for body in bodies))
                for k, bodies in requests.items()
            }
            full = targets[BUDGETS[-1]]
            table.measure(full, FULL)  # warm-up
            by_clients = {}
            for clients in CLIENTS:
                before = _batches(service, role)
                by_clients[clients] = table.measure(full, clients)
                if clients in HISTOGRAM_CLIENTS:
                    batches.setdefault(role, {})[f"{clients}"] = {
                        le: count - before.get(le, 0)
                        for le, count in _batches(service, role).items()
                    }
            by_side = (
                {side: table.measure(_uploads(service, side), FULL) for side in SIDES}
                if role == "encode"
                else {}
            )
            slope = 0.0
            if by_side:
                megapixels = (SIDES[-1] ** 2 - 256**2) / 1e6
                slope = (by_side[SIDES[-1]].cost - by_side[256].cost) / megapixels
            model = Model(by_clients[1].p50, by_clients[FULL].cost, slope)
            fits[role] = asdict(model)
            print(
                f"\n{role}: latency of one client {1000 * model.latency:.2f} ms, "
                f"{model.cost:.2f} core ms per image, {slope:.2f} per further megapixel\n{HEAD}"
            )
            for clients, cell in by_clients.items():
                table.add(role, "clients", clients, cell, model.throughput(clients))
            for k, target in targets.items():
                cell = replace(
                    table.measure(target, FULL),
                    bytes_in=float(np.mean([len(body) for body in target.bodies])),
                    bytes_out=float(response_bytes[role][k]),
                )
                table.add(role, "k", k, cell, model.throughput(FULL))
            for side, cell in by_side.items():
                table.add(role, "side", side, cell, model.throughput(FULL, side**2 / 1e6))
            for batch in STREAMED:
                stream = _stream(service, role, requests[BUDGETS[-1]], batch)
                cell = table.measure(stream, 1, batch)
                table.add(role, "streamed", batch, cell, model.throughput(batch))
    pixels = np.stack([imaging.prepare(jpeg, size) for jpeg in jpegs[: BATCHES[-1]]])
    ids = np.stack([sequence.ids for sequence in tokens[: BATCHES[-1]]]).astype(np.int32)
    for role, pattern, inputs in (("encode", "*_encode", pixels), ("decode", "*_decode_k*", ids)):
        (graph,) = REPOSITORY.glob(f"{pattern}/1/model.onnx")
        fits[role] |= _fit_bare_graph(table, BareGraph(graph, inputs), role, seconds / 2)
        whole, graph_alone = fits[role]["cost"], fits[role]["graph"]
        print(
            f"  {whole:.2f} core ms per image: graph {graph_alone:.2f}, "
            f"all else {whole - graph_alone:.2f}"
        )
    figures = {
        "cores": CORES,
        "fits": fits,
        "cells": table.cells,
        "batches": batches,
        "at": time.strftime("%F", time.gmtime()),
    }
    write_report(REPORT, figures)


def _fit_bare_graph(table: Table, bare: BareGraph, role: str, seconds: float) -> dict[str, float]:
    """Measure every batch size without a service, and fit fixed and per-image milliseconds."""
    print(
        f"\n{role}, the bare graph: {' '.join(bare.engine)}, "
        f"one thread on each of {CORES} cores\n{HEAD}"
    )
    rates = {batch: bare.throughput(Arrangement(CORES, 1, batch), seconds) for batch in BATCHES}
    batch_ms = {batch: 1000 * CORES * batch / rate for batch, (rate, _) in rates.items()}
    each = (batch_ms[BATCHES[-1]] - batch_ms[1]) / (BATCHES[-1] - 1)
    fixed = batch_ms[1] - each
    for batch, (rate, cpu) in rates.items():
        latency = batch_ms[batch] / 1000
        cell = Cell(rate, latency, latency, {"graph": 1000 * cpu})
        table.add(role, "bare", batch, cell, 1000 * CORES * batch / (fixed + each * batch))
    return {"graph_fixed_ms": fixed, "graph_each_ms": each, "graph": 1000 * rates[4][1]}


def _requests(role: str, k: int, jpegs: list[bytes], tokens: list[Tokens]) -> list[Any]:
    if role == "encode":
        return [pb.EncodeRequest(image=jpeg, k=k) for jpeg in jpegs]
    jpeg = pb.IMAGE_FORMAT_JPEG
    return [pb.DecodeRequest(tokens=row.prefix(k).to_bytes(), format=jpeg) for row in tokens]


def _uploads(service: Service, side: int) -> Grpc:
    """Encode of JPEGs of side x side pixels."""
    requests = [pb.EncodeRequest(image=jpeg, k=BUDGETS[-1]) for jpeg in images.squares(side)]
    return Grpc(service.grpc, ENCODE, tuple(body.SerializeToString() for body in requests))


def _stream(service: Service, role: str, requests: list[Any], batch: int) -> Stream:
    message = pb.EncodeStreamRequest if role == "encode" else pb.DecodeStreamRequest
    method = (ENCODE if role == "encode" else DECODE) + "Stream"
    messages = [message(id=i, request=request) for i, request in enumerate(requests)]
    bodies = tuple(body.SerializeToString() for body in messages)
    return Stream(service.grpc, method, bodies, batch)


def _batches(service: Service, role: str) -> dict[str, int]:
    """Images so far by batch size, rounded up to a power of two."""
    with urllib.request.urlopen(f"{service.rest}/metrics", timeout=10) as reply:
        return dict(_buckets(reply.read().decode(), role))


def _buckets(exposition: str, role: str) -> Iterator[tuple[str, int]]:
    below = 0
    for family in text_string_to_metric_families(exposition):
        if family.name != "channeltok_batch_size":
            continue
        for sample in family.samples:
            if sample.name.endswith("_bucket") and f"_{role}" in sample.labels["model"]:
                yield sample.labels["le"].removesuffix(".0"), int(sample.value) - below
                below = int(sample.value)


if __name__ == "__main__":
    main()
