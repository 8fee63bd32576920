"""`make bench-peers`: Encode throughput of the service against other serving frameworks.

FastAPI, LitServe, Ray Serve, BentoML and MLServer serve the same graph (JPEG in, tokens out) on the
same cores, each set up as its own documentation recommends, with batching where it has it, in an
environment of its own on top of the project's. Each round starts them in turn, checks that their
tokens equal the service's, and runs, after a short warm-up, a closed loop of 1, 4, 16 and 64
clients and an open loop at 0.7 of the best rate. The clients run on the same cores.
"""

import argparse
import base64
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import psutil
from channeltok import Client
from channeltok.v1 import tokenizer_pb2 as pb

from loadtest.harness import images
from loadtest.harness.report import write_report
from loadtest.harness.service_process import ROOT, running
from loadtest.load.open_loop import ENCODE, Generators, Grpc, Report, Rest, Target
from loadtest.load.targets import triton_targets
from service.engine.cpu import processor_has_bf16

CLIENTS = (1, 4, 16, 64)
WARM_UP, WARM_UP_SECONDS = (4, 1), 1.5
OPEN_SHARE = 0.7
START_SECONDS = 120.0
ENVIRONMENTS = Path("build/peers")
REPORT = Path("build/bench-peers.json")
BOUNDARY = "photo-and-photo-alone"
OURS = "ChannelTok gRPC"
OUR_BEST = "ChannelTok bf16"  # with its fastest engine, if the processor supports it


@dataclass(frozen=True)
class Peer:
    """How to start a framework and how to call it.

    requirements: pinned packages beyond the project's. command: the arguments of its Python, for a
    port. form: it takes a multipart form instead of a plain body. v2: it speaks the Open Inference
    Protocol in JSON, with the JPEG in base64.
    """

    requirements: tuple[str, ...]
    command: Callable[[int], list[str]]
    form: bool = False
    v2: bool = False

    @property
    def path(self) -> str:
        return "/v2/models/encode/infer" if self.v2 else "/encode"

    @property
    def content_type(self) -> str:
        if self.v2:
            return "application/json"
        return f"multipart/form-data; boundary={BOUNDARY}" if self.form else "image/jpeg"

    def body(self, jpeg: bytes) -> bytes:
        """Request body for one image."""
        if self.v2:
            tensor = {
                "name": "jpeg",
                "shape": [1, 1],
                "datatype": "BYTES",
                "parameters": {"content_type": "base64"},
                "data": [base64.b64encode(jpeg).decode()],
            }
            return json.dumps({"inputs": [tensor]}).encode()
        if not self.form:
            return jpeg
        head = (
            f"--{BOUNDARY}\r\n"
            'Content-Disposition: form-data; name="jpegs"; filename="1.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        return head.encode() + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()


PEERS = {
    "FastAPI": Peer(
        (),
        lambda port: (
            f"-m uvicorn loadtest.peers.fastapi_app:app --port {port} "
            "--workers 2 --log-level warning"
        ).split(),
    ),
    "LitServe": Peer(
        ("litserve==0.2.19", "python-multipart==0.0.34"),
        lambda port: f"-m loadtest.peers.litserve_app {port}".split(),
        form=True,
    ),
    "Ray Serve": Peer(
        ("ray[serve]==2.60.0",), lambda port: f"-m loadtest.peers.ray_serve_app {port}".split()
    ),
    "BentoML": Peer(
        ("bentoml==1.4.38",),
        lambda port: (
            f"-m bentoml serve loadtest.peers.bentoml_service:Encoder --port {port}".split()
        ),
        form=True,
    ),
    "MLServer": Peer(
        ("mlserver==1.7.1", "uvloop==0.21.0"),
        lambda port: f"-m loadtest.peers.mlserver_app {port}".split(),
        v2=True,
    ),
}


@dataclass(frozen=True)
class Cell:
    """Result of one run: successful images/s, their latency in seconds, share of successes."""

    goodput: float
    p50: float
    p99: float
    good_share: float

    @classmethod
    def of(cls, report: Report) -> "Cell":
        share = report.counts().get(report.good, 0) / len(report.codes)
        return cls(
            report.goodput, report.latency(50, report.good), report.latency(99, report.good), share
        )

    @classmethod
    def median(cls, cells: list["Cell"]) -> "Cell":
        return cls(
            *(
                statistics.median(column)
                for column in zip(*(asdict(cell).values() for cell in cells), strict=True)
            )
        )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a run (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=list(PEERS), default=list(PEERS), help="run only these peers"
    )
    options = parser.parse_args()
    compare(options.rounds, options.seconds, options.only)


def compare(rounds: int, seconds: float, names: Sequence[str] = tuple(PEERS)) -> dict[str, object]:
    """Measure, print, and write build/bench-peers.json; returns its contents.

    These are the cells' medians over `rounds` of runs of `seconds` each, the ratios, and versions.
    """
    jpegs = images.crops()
    pythons = {name: environment(name) for name in names}
    cells: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))

    def measure(name: str, target: Target) -> None:
        for clients in WARM_UP:  # servers still load further workers when they answer
            generators.closed_loop(target, clients, WARM_UP_SECONDS).result()
        best = 0.0
        for clients in CLIENTS:
            cell = Cell.of(generators.closed_loop(target, clients, seconds).result())
            best = max(best, cell.goodput)
            cells[name][f"{clients}"].append(cell)
        report = generators.open_loop(target, OPEN_SHARE * best, seconds).result()
        cells[name]["open"].append(Cell.of(report))
        rates = "".join(f"{rounds[-1].goodput:9.1f}" for rounds in cells[name].values())
        print(f"{name:16}{rates}", flush=True)

    encode = tuple(pb.EncodeRequest(image=jpeg).SerializeToString() for jpeg in jpegs)
    with Generators(1) as generators:
        for _ in range(rounds):
            with running(max_queue_seconds="30") as service:
                with Client(service.grpc) as client:
                    expected = client.encode(jpegs[0]).ids.tolist()
                measure(OURS, Grpc(service.grpc, ENCODE, encode))
                measure("ChannelTok REST", Rest(f"{service.rest}/v1/encode", "POST", tuple(jpegs)))
                measure("Triton, pixels", triton_targets(service)["encode"])
            if processor_has_bf16():
                with running(max_queue_seconds="30", encode_precision="bf16") as service:
                    measure(OUR_BEST, Grpc(service.grpc, ENCODE, encode))
            for name in names:
                with peer(name, pythons[name]) as url:
                    assert ids(name, url, jpegs[0]) == expected, f"{name} returns other tokens"
                    bodies = tuple(PEERS[name].body(jpeg) for jpeg in jpegs)
                    headers = (("content-type", PEERS[name].content_type),)
                    measure(name, Rest(url, "POST", bodies, headers))
    medians = {
        name: {load: Cell.median(rounds) for load, rounds in loads.items()}
        for name, loads in cells.items()
    }
    figures = report(medians, rounds)
    write_report(REPORT, figures)
    return figures


def report(medians: dict[str, dict[str, Cell]], rounds: int) -> dict[str, object]:
    """Print the table and the ratios; returns the report."""
    loads = [*(f"{clients}" for clients in CLIENTS), "open"]
    print(
        f"\nimages/s and p99 in ms, medians of {rounds} rounds; "
        f"last column: open loop at {OPEN_SHARE} of the row's best rate"
    )
    print(f"{'':16}" + "".join(f"{load:>18}" for load in loads))
    for name, row in medians.items():
        print(
            f"{name:16}"
            + "".join(f"{row[load].goodput:9.1f} {1000 * row[load].p99:8.1f}" for load in loads)
        )
    figures: dict[str, object] = {
        "versions": versions(),
        "cells": {n: {k: asdict(c) for k, c in row.items()} for n, row in medians.items()},
    }
    for clients in CLIENTS:
        load = f"{clients}"
        best = max(
            (name for name in medians if name in PEERS),
            key=lambda name: medians[name][load].goodput,
        )
        for ours, key in ((OURS, "default"), (OUR_BEST, "best_engine")):
            if ours in medians:
                ratio = medians[ours][load].goodput / medians[best][load].goodput
                p99 = medians[ours][load].p99 / medians[best][load].p99
                figures[f"{key}_over_best_peer_c{clients}"] = ratio
                figures[f"{key}_p99_over_best_peer_c{clients}"] = p99
                print(
                    f"{clients} clients: {ours} / best peer ({best}) = {ratio:.2f}, p99 {p99:.2f}"
                )
    return figures


def versions() -> dict[str, str]:
    """Versions of the packages that were compared."""
    ours = {
        name: metadata.version(name)
        for name in ("fastapi", "uvicorn", "onnxruntime", "grpcio", "nvidia-pytriton")
    }
    return ours | dict(
        requirement.split("==", 1) for peer in PEERS.values() for requirement in peer.requirements
    )


def environment(name: str) -> Path:
    """The peer's Python: its requirements take precedence over the project's. Created once."""
    requirements = PEERS[name].requirements
    if not requirements:
        return Path(sys.executable)
    folder = ENVIRONMENTS / name.replace(" ", "-").lower()
    python = folder / "bin/python"
    installed = folder / "requirements.txt"
    if not (installed.exists() and installed.read_text().split() == list(requirements)):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        packages = next(folder.glob("lib/python3*/site-packages"))
        (packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        installed.write_text("\n".join(requirements))
    return python.absolute()


@contextlib.contextmanager
def peer(name: str, python: Path) -> Iterator[str]:
    """Start a peer and wait until it answers; yields the URL of its encode."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jpeg = images.crops(1)[0]
    log = ENVIRONMENTS / f"{name.replace(' ', '-').lower()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(python), *PEERS[name].command(port)], cwd=ROOT, stdout=output, stderr=output
        )
        try:
            url = f"http://127.0.0.1:{port}{PEERS[name].path}"
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    ids(name, url, jpeg)
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"{name} did not start; see {log}") from None
                    time.sleep(0.2)
            yield url
        finally:
            if process.poll() is None:
                parent = psutil.Process(process.pid)
                family = [*parent.children(recursive=True), parent]
                process.terminate()
                _, alive = psutil.wait_procs(family, timeout=15)
                for survivor in alive:
                    survivor.kill()


def ids(name: str, url: str, jpeg: bytes) -> list[int]:
    """Tokens that a peer returns for one image. OSError while it does not answer."""
    request = urllib.request.Request(
        url, PEERS[name].body(jpeg), {"content-type": PEERS[name].content_type}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        answer = json.load(reply)
    if PEERS[name].v2:
        answer = {"ids": answer["outputs"][0]["data"]}
    tokens: list[int] = answer["ids"] if isinstance(answer, dict) else answer[0]
    return tokens


if __name__ == "__main__":
    main()
