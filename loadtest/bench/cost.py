"""`make cost`: what an image costs, over clients, budgets, sizes of JPEG and batches, beside a small model of it.

The model is fitted to few cells and compared with all others, whose error is printed:

    core ms of an image  = graph + gateway and the rest + slope * megapixels of the JPEG beyond 256 x 256
    images/s            = min(clients / latency of one client, cores / core ms)
    ms of a batch of B    = fixed + each * B                                        (the bare graph on all cores)

Core ms are CPU time measured, of the service and of the clients, for both are on the same cores. Closed loops of --seconds, in one run.
"""

import argparse
import io
import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from channeltok import Client
from channeltok.v1 import tokenizer_pb2 as pb
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import imaging
from loadtest.bench.throughput import CORES, PHOTO, REPOSITORY, Arrangement, Bare, photos
from loadtest.harness import process_stats
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import DECODE, ENCODE, Generators, Grpc, Report

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
BUDGETS = (32, 64, 128, 256)
SIDES = (256, 512, 1024, 2048)  # pixels of the JPEG
BATCHES = (1, 2, 4, 8, 16, 32)
STREAMED = (1, 4, 16, 32)  # images of a stream
FULL = 16  # clients that fill both cores
HISTOGRAM_CLIENTS = (1, 4, 16, 64)
REPORT = Path("build/cost.json")


@dataclass(frozen=True)
class Cell:
    """One closed loop. p50, p99: seconds. cpu: core milliseconds of an image by kind of process. Bytes of a request and of its answer."""

    throughput: float
    p50: float
    p99: float
    cpu: dict[str, float]
    bytes_in: float = 0.0
    bytes_out: float = 0.0

    @property
    def cost(self) -> float:
        """Core milliseconds."""
        return sum(self.cpu.values())


@dataclass(frozen=True)
class Model:
    """latency: seconds of one client's call. cost: core milliseconds at 256 x 256. slope: core milliseconds of a megapixel more."""

    latency: float
    cost: float
    slope: float = 0.0

    def throughput(self, clients: int, megapixels: float = 256**2 / 1e6) -> float:
        """Images/s of so many clients in a closed loop."""
        more = self.slope * (megapixels - 256**2 / 1e6)
        return min(clients / (self.latency + more / 1000), CORES / (self.cost + more) * 1000)


@dataclass(frozen=True)
class Stream:
    """A bidirectional method; a call is a stream of `batch` images, all sent at once. bodies: serialised requests."""

    address: str
    method: str
    bodies: tuple[bytes, ...]
    batch: int
    good: str = "OK"

    @asynccontextmanager
    async def connected(self) -> Any:
        """A `Call`."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stream = channel.stream_stream(self.method)

            async def call(number: int) -> str:
                bodies = (
                    self.bodies[(number * self.batch + i) % len(self.bodies)]
                    for i in range(self.batch)
                )
                try:
                    answers = [answer async for answer in stream(bodies)]
                except grpc.aio.AioRpcError as error:
                    return str(error.code().name)
                return self.good if len(answers) == self.batch else "INCOMPLETE"

            yield call


class Table:
    """Measures cells, and keeps them as they will be written."""

    def __init__(self, service: Service, generators: Generators, seconds: float) -> None:
        self.cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._pid, self._generators, self._seconds = service.process.pid, generators, seconds

    def cell(self, target: Any, callers: int, images_a_call: int = 1) -> Cell:
        """SystemExit unless every call was answered."""
        generator = psutil.Process().children()
        before, clients = process_stats.cpu(self._pid), _clients(generator, self._pid)
        report: Report = self._generators.closed_loop(target, callers, self._seconds).result()
        after, clients = process_stats.cpu(self._pid), _clients(generator, self._pid) - clients
        if set(report.counts()) != {report.good}:
            raise SystemExit(f"calls failed: {report.counts()}")
        done = len(report.codes) * images_a_call
        cpu = {kind: 1000 * (after[kind] - before[kind]) / done for kind in after} | {
            "clients": 1000 * clients / done
        }
        elapsed = float(report.finished.max())
        return Cell(done / elapsed, report.latency(50), report.latency(99), cpu)

    def add(self, role: str, axis: str, value: int, cell: Cell, predicted: float) -> None:
        """Print a row and keep it."""
        self.cells.setdefault(role, {}).setdefault(axis, [])
        error = cell.throughput / predicted - 1
        self.cells[role][axis].append(
            {axis: value, **asdict(cell), "predicted": predicted, "error": error}
        )
        size = f"{cell.bytes_in / 1e3:9.1f}{cell.bytes_out / 1e3:9.2f}" if cell.bytes_in else ""
        print(
            f"  {role:6} {axis:8} {value:5}  {cell.throughput:7.1f}  {1000 * cell.p50:7.1f}  {1000 * cell.p99:7.1f}  {cell.cost:7.2f}"
            f"  {predicted:7.1f}  {error:+7.1%}{size}",
            flush=True,
        )


HEAD = f"{'pics/s':>31}  {'p50 ms':>7}  {'p99 ms':>7}  {'core ms':>7}  {'model':>7}  {'error':>7}  kB in and out"


def main() -> None:
    """Measure, print, and write build/cost.json."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of a cell; %(default)s")
    seconds = parser.parse_args().seconds
    jpegs = photos()
    batches: dict[str, dict[str, dict[str, int]]] = {}
    fits: dict[str, dict[str, float]] = {}
    # A closed loop of 64 waits longer than the service lets anybody by default, and nobody shall be refused here.
    with running(max_queue_seconds="30") as service, Generators(1) as generators:
        with Client(service.grpc, timeout=60) as client:
            size = client.tokenizers()[0].image_size
            tokens = [client.encode(jpeg) for jpeg in jpegs]
            answers = {
                "encode": {k: len(client.encode(jpegs[0], k).to_bytes()) for k in BUDGETS},
                "decode": {k: len(client.decode(tokens[0].prefix(k), "jpeg")) for k in BUDGETS},
            }
        table = Table(service, generators, seconds)
        jpeg_back = pb.IMAGE_FORMAT_JPEG
        requests: dict[str, dict[int, list[Any]]] = {
            "encode": {k: [pb.EncodeRequest(image=jpeg, k=k) for jpeg in jpegs] for k in BUDGETS},
            "decode": {
                k: [
                    pb.DecodeRequest(tokens=one.prefix(k).to_bytes(), format=jpeg_back)
                    for one in tokens
                ]
                for k in BUDGETS
            },
        }
        for role, method in (("encode", ENCODE), ("decode", DECODE)):
            bodies = {
                k: tuple(one.SerializeToString() for one in made)
                for k, made in requests[role].items()
            }
            target = Grpc(service.grpc, method, bodies[BUDGETS[-1]])
            table.cell(target, FULL)  # to warm up
            measured = {}
            for clients in CLIENTS:
                before = _batches(service, role)
                measured[clients] = table.cell(target, clients)
                if clients in HISTOGRAM_CLIENTS:
                    after = _batches(service, role)
                    batches.setdefault(role, {})[f"{clients}"] = {
                        le: after[le] - before.get(le, 0) for le in after
                    }
            large = (
                {side: table.cell(_uploads(service, side), FULL) for side in SIDES}
                if role == "encode"
                else {}
            )
            slope = (
                (large[SIDES[-1]].cost - large[256].cost) / ((SIDES[-1] ** 2 - 256**2) / 1e6)
                if large
                else 0.0
            )
            model = Model(measured[1].p50, measured[FULL].cost, slope)
            fits[role] = asdict(model)
            print(
                f"\n{role}: one client waits {1000 * model.latency:.2f} ms, an image costs {model.cost:.2f} core ms",
                end="",
            )
            print(f" and {slope:.2f} more for each megapixel\n{HEAD}" if large else f"\n{HEAD}")
            for clients, cell in measured.items():
                table.add(role, "clients", clients, cell, model.throughput(clients))
            for k in BUDGETS:
                cell = table.cell(Grpc(service.grpc, method, bodies[k]), FULL)
                sizes = {
                    "bytes_in": float(np.mean([len(body) for body in bodies[k]])),
                    "bytes_out": float(answers[role][k]),
                }
                table.add(role, "k", k, Cell(**{**asdict(cell), **sizes}), model.throughput(FULL))
            for side, cell in large.items():
                table.add(role, "side", side, cell, model.throughput(FULL, side**2 / 1e6))
            for batch in STREAMED:
                stream = _stream(service, role, requests[role][BUDGETS[-1]], batch)
                table.add(
                    role, "streamed", batch, table.cell(stream, 1, batch), model.throughput(batch)
                )
    pixels = np.stack([imaging.prepare(jpeg, size) for jpeg in jpegs[: BATCHES[-1]]])
    ids = np.stack([one.ids for one in tokens[: BATCHES[-1]]]).astype(np.int32)
    feeds: dict[str, tuple[str, NDArray[Any]]] = {
        "encode": ("*_encode", pixels),
        "decode": ("*_decode_k*", ids),
    }
    for role, (pattern, feed) in feeds.items():
        (graph,) = REPOSITORY.glob(f"{pattern}/1/model.onnx")
        bare = Bare(role, graph, feed)
        print(
            f"\n{role}, the bare graph: {' '.join(bare.engine)}, one thread on each of {CORES} cores\n{HEAD}"
        )
        rates = {
            batch: bare.throughput(Arrangement(CORES, 1, batch), seconds / 2) for batch in BATCHES
        }
        milliseconds = {
            batch: 1000 * CORES * batch / rate for batch, (rate, _) in rates.items()
        }  # of one core, for a batch
        each = (milliseconds[BATCHES[-1]] - milliseconds[1]) / (BATCHES[-1] - 1)
        fixed = milliseconds[1] - each
        fits[role] |= {"graph_fixed_ms": fixed, "graph_each_ms": each, "graph": 1000 * rates[4][1]}
        for batch, (rate, cpu) in rates.items():
            latency = milliseconds[batch] / 1000
            table.add(
                role,
                "bare",
                batch,
                Cell(rate, latency, latency, {"graph": 1000 * cpu}),
                1000 * CORES * batch / (fixed + each * batch),
            )
        whole, graph_alone = fits[role]["cost"], fits[role]["graph"]
        print(
            f"  an image's {whole:.2f} core ms: graph {graph_alone:.2f}, all else {whole - graph_alone:.2f}"
        )
    figures = {
        "cores": CORES,
        "fits": fits,
        "cells": table.cells,
        "batches": batches,
        "at": time.strftime("%F", time.gmtime()),
    }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nwrote {REPORT}")


def _clients(generator: list[psutil.Process], service: int) -> float:
    """CPU seconds of the processes that make the load."""
    return sum(sum(process.cpu_times()[:2]) for process in generator if process.pid != service)


def _uploads(service: Service, side: int) -> Grpc:
    """Encode of JPEGs of side x side: one photo's square, resized."""
    photo = Image.open(PHOTO)
    bodies = []
    for corner in range(0, 64, 8):
        edge = min(photo.size) - 64
        buffer = io.BytesIO()
        square = photo.crop((corner, corner, corner + edge, corner + edge))
        square.resize((side, side), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
        bodies.append(pb.EncodeRequest(image=buffer.getvalue(), k=BUDGETS[-1]).SerializeToString())
    return Grpc(service.grpc, ENCODE, tuple(bodies))


def _stream(service: Service, role: str, requests: list[Any], batch: int) -> Stream:
    message = pb.EncodeStreamRequest if role == "encode" else pb.DecodeStreamRequest
    method = (ENCODE if role == "encode" else DECODE) + "Stream"
    return Stream(
        service.grpc,
        method,
        tuple(message(id=i, request=one).SerializeToString() for i, one in enumerate(requests)),
        batch,
    )


def _batches(service: Service, role: str) -> dict[str, int]:
    """Images so far by the size of the batch they were computed in, rounded up to a power of two."""
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
