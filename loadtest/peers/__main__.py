"""`make bench-peers`: the service beside what else one would put the same graph behind. JPEG in, tokens out, same cores, one run, in turns.

Each peer runs by its own documentation's best practice, with batching where it has it, in an environment of its own that sees the
project's. A round starts each in turn, checks that its tokens are the service's, and measures a closed loop of 1, 4, 16 and 64 callers and
an open loop at 0.7 of what it carried. The clients share the cores with all of them alike.
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

from loadtest.bench.gateway_overhead import triton_targets
from loadtest.bench.throughput import photos
from loadtest.harness.service_process import ROOT, running
from loadtest.load.open_loop import ENCODE, Generators, Grpc, Report, Rest, Target
from service.engine.cpu import processor_has_bf16

CALLERS = (1, 4, 16, 64)
OPEN_SHARE = 0.7
START_SECONDS = 120.0
ENVIRONMENTS = Path("build/peers")
REPORT = Path("build/bench-peers.json")
BOUNDARY = "photo-and-photo-alone"
OURS, OUR_BEST = (
    "ChannelTok gRPC",
    "ChannelTok bf16",
)  # the second on its own best engine, where the processor has it


@dataclass(frozen=True)
class Peer:
    """requirements: beyond the project's, pinned. command: from a port, arguments of its Python. form: takes a form and not a body.

    v2: speaks the Open Inference Protocol in JSON, with the JPEG in base64.
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
        """Of a request for one image."""
        if self.v2:
            data, parameters = [base64.b64encode(jpeg).decode()], {"content_type": "base64"}
            return json.dumps(
                {
                    "inputs": [
                        {
                            "name": "jpeg",
                            "shape": [1, 1],
                            "datatype": "BYTES",
                            "parameters": parameters,
                            "data": data,
                        }
                    ]
                }
            ).encode()
        if not self.form:
            return jpeg
        head = 'Content-Disposition: form-data; name="jpegs"; filename="1.jpg"\r\nContent-Type: image/jpeg'
        return (
            f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()
        )


PEERS = {
    "FastAPI": Peer(
        (),
        lambda port: [
            "-m",
            "uvicorn",
            "loadtest.peers.fastapi_app:app",
            "--port",
            str(port),
            "--workers",
            "2",
            "--log-level",
            "warning",
        ],
    ),
    "LitServe": Peer(
        ("litserve==0.2.19", "python-multipart==0.0.34"),
        lambda port: ["-m", "loadtest.peers.litserve_app", str(port)],
        form=True,
    ),
    "Ray Serve": Peer(
        ("ray[serve]==2.60.0",), lambda port: ["-m", "loadtest.peers.ray_serve_app", str(port)]
    ),
    "BentoML": Peer(
        ("bentoml==1.4.38",),
        lambda port: [
            "-m",
            "bentoml",
            "serve",
            "loadtest.peers.bentoml_service:Encoder",
            "--port",
            str(port),
        ],
        form=True,
    ),
    "MLServer": Peer(
        ("mlserver==1.7.1", "uvloop==0.21.0"),
        lambda port: ["-m", "loadtest.peers.mlserver_app", str(port)],
        v2=True,
    ),
}


@dataclass(frozen=True)
class Cell:
    """One stretch of load. Images/s, and seconds of latency of good answers."""

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
    parser.add_argument("--seconds", type=float, default=6.0, help="of each stretch")
    parser.add_argument(
        "--only", nargs="+", choices=list(PEERS), default=list(PEERS), help="which peers"
    )
    options = parser.parse_args()
    compare(options.rounds, options.seconds, options.only)


def compare(rounds: int, seconds: float, names: Sequence[str] = tuple(PEERS)) -> dict[str, object]:
    """Measure, print, and write build/bench-peers.json; returns what it holds.

    That is the cells' medians over `rounds`, each stretch of load `seconds` long, the ratios, and the versions.
    """
    jpegs = photos()
    pythons = {name: environment(name) for name in names}
    cells: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))

    def measure(name: str, target: Target) -> None:
        carried = 0.0
        for callers in CALLERS:
            cell = Cell.of(generators.closed_loop(target, callers, seconds).result())
            carried = max(carried, cell.goodput)
            cells[name][f"{callers}"].append(cell)
        cells[name]["open"].append(
            Cell.of(generators.open_loop(target, OPEN_SHARE * carried, seconds).result())
        )
        print(
            f"{name:16}" + "".join(f"{seen[-1].goodput:9.1f}" for seen in cells[name].values()),
            flush=True,
        )

    encode = tuple(pb.EncodeRequest(image=jpeg).SerializeToString() for jpeg in jpegs)
    with Generators(1) as generators:
        for _ in range(rounds):
            with running(max_queue_seconds="30") as service:
                with Client(service.grpc) as client:
                    right = client.encode(jpegs[0]).ids.tolist()
                measure(OURS, Grpc(service.grpc, ENCODE, encode))
                measure("ChannelTok REST", Rest(f"{service.rest}/v1/encode", "POST", tuple(jpegs)))
                measure("Triton, pixels", triton_targets(service)["encode"])
            if processor_has_bf16():
                with running(max_queue_seconds="30", encode_precision="bf16") as service:
                    measure(OUR_BEST, Grpc(service.grpc, ENCODE, encode))
            for name in names:
                with peer(name, pythons[name]) as url:
                    assert ids(name, url, jpegs[0]) == right, f"{name} answers other tokens"
                    bodies = tuple(PEERS[name].body(jpeg) for jpeg in jpegs)
                    measure(
                        name,
                        Rest(url, "POST", bodies, (("content-type", PEERS[name].content_type),)),
                    )
    medians = {
        name: {load: Cell.median(seen) for load, seen in loads.items()}
        for name, loads in cells.items()
    }
    figures = report(medians, rounds)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"wrote {REPORT}")
    return figures


def report(medians: dict[str, dict[str, Cell]], rounds: int) -> dict[str, object]:
    """Print the table and the ratios; return them."""
    loads = [*(f"{callers}" for callers in CALLERS), "open"]
    print(
        f"\nimages/s and p99 in ms, medians of {rounds} rounds; the last column is an open loop at {OPEN_SHARE} of each one's best"
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
    for callers in (16, 64):
        best = max(
            (name for name in medians if name in PEERS),
            key=lambda name: medians[name][f"{callers}"].goodput,
        )
        for ours, ratio_name in (
            (OURS, "best_peer_ratio"),
            (OUR_BEST, "best_peer_ratio_best_engine"),
        ):
            if ours in medians:
                ratio = medians[ours][f"{callers}"].goodput / medians[best][f"{callers}"].goodput
                figures[f"{ratio_name}_c{callers}"] = ratio
                print(f"at {callers} callers {ours} carries {ratio:.2f} of the best peer, {best}")
    return figures


def versions() -> dict[str, str]:
    """Of everything that ran."""
    ours = {
        name: metadata.version(name)
        for name in ("fastapi", "uvicorn", "onnxruntime", "grpcio", "nvidia-pytriton")
    }
    return ours | dict(
        requirement.split("==", 1) for peer in PEERS.values() for requirement in peer.requirements
    )


def environment(name: str) -> Path:
    """Python with what a peer needs, before all that the project has; made once."""
    requirements = PEERS[name].requirements
    if not requirements:
        return Path(sys.executable)
    folder = ENVIRONMENTS / name.replace(" ", "-").lower()
    python = folder / "bin/python"
    done = folder / "requirements.txt"
    if not (done.exists() and done.read_text().split() == list(requirements)):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        packages = next(folder.glob("lib/python3*/site-packages"))
        (packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text("\n".join(requirements))
    return python.absolute()


@contextlib.contextmanager
def peer(name: str, python: Path) -> Iterator[str]:
    """A peer that answers; the URL of its encode."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    photo = photos(1)[0]
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
                    ids(name, url, photo)
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"{name} did not start: {log} says why") from None
                    time.sleep(0.2)
            yield url
        finally:
            if process.poll() is None:
                family = [
                    *psutil.Process(process.pid).children(recursive=True),
                    psutil.Process(process.pid),
                ]
                process.terminate()
                _, alive = psutil.wait_procs(family, timeout=15)
                for one in alive:
                    one.kill()


def ids(name: str, url: str, jpeg: bytes) -> list[int]:
    """What a peer answers for one image. OSError while it does not."""
    request = urllib.request.Request(
        url, PEERS[name].body(jpeg), {"content-type": PEERS[name].content_type}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        answer = json.load(reply)
    if PEERS[name].v2:
        answer = {"ids": answer["outputs"][0]["data"]}
    found: list[int] = answer["ids"] if isinstance(answer, dict) else answer[0]
    return found


if __name__ == "__main__":
    main()
