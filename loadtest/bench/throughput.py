"""`make bench`: images/s through the service against the bare graph in a loop, in one run, and where the missing share goes.

Bare: the engine that the service chooses, in this process, on pixels and ids that are ready. Once as a plain loop, image after image,
on as many threads as the service's engines have together; and once at the best of several arrangements found in the same run.
Served: `python -m service` as it starts by default, 16 clients over gRPC on the same cores, JPEG at both ends. The clients' own work is
on the same cores too, and is shown.
"""

import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from channeltok import AsyncClient, Tokens
from numpy.typing import NDArray
from PIL import Image

import imaging
from export.triton import python_backend
from service.engine.cpu import cpu_engine
from service.settings import Settings

CLIENTS = 16
ROUNDS = 5
SECONDS = 4.0
PHOTO = Path("docs/images/cat.jpg")
REPOSITORY = Path("model_repository")
REPORT = Path("build/bench.json")
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Arrangement:
    """How the bare graph is run: `sessions` at once, each on `threads` threads, `batch` images a run."""

    sessions: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.sessions} sessions x {self.threads} threads x batch {self.batch}"


PLAIN_LOOP = Arrangement(1, CORES, 1)
ARRANGEMENTS = [
    Arrangement(sessions, CORES // sessions, batch)
    for sessions in (1, CORES)
    for batch in (1, 4, 8, 16)
]


class Bare:
    """One graph, in process."""

    def __init__(self, role: str, graph: Path, feed: NDArray[Any]) -> None:
        self.engine = cpu_engine(role, Settings())
        self._graph = graph
        self._feed = feed

    def throughput(self, arrangement: Arrangement, seconds: float) -> tuple[float, float]:
        """(images/s, CPU seconds per image)."""
        engine = (*self.engine, arrangement.threads, arrangement.batch)
        loaded = [python_backend.load(self._graph, *engine) for _ in range(arrangement.sessions)]
        feed = {loaded[0][0][0]: self._feed[: arrangement.batch]}
        sessions = [run for _, _, run in loaded]
        for run in sessions:
            run(feed)
        deadline = time.perf_counter() + seconds

        def loop(run: Callable[[dict[str, Any]], object]) -> int:
            done = 0
            while time.perf_counter() < deadline:
                run(feed)
                done += arrangement.batch
            return done

        cpu, started = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(arrangement.sessions) as pool:
            done = sum(pool.map(loop, sessions))
        return done / (time.perf_counter() - started), (time.process_time() - cpu) / done

    def best(self) -> Arrangement:
        """The fastest arrangement, found in a short try of each."""
        return max(ARRANGEMENTS, key=lambda arrangement: self.throughput(arrangement, 1.0)[0])


@dataclass(frozen=True)
class Load:
    """What one stretch of load did. cpu: CPU seconds per image by kind of process."""

    throughput: float
    cpu: dict[str, float]


@dataclass(frozen=True)
class Round:
    """Images/s of the plain loop, images/s and CPU seconds per image at its best, and what was served, one after the other."""

    plain: float
    best: float
    best_cpu: float
    served: Load


class Served:
    """The service as a process, and 16 clients here."""

    def __init__(self) -> None:
        environment = {**os.environ, "CHANNELTOK_REST_PORT": "0", "CHANNELTOK_GRPC_PORT": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if "gRPC" in line), None)
        if line is None:
            raise SystemExit("the service did not start")
        self.target = line.split("gRPC")[1].strip()

    def load(self, call: Callable[[AsyncClient, int], Awaitable[object]], seconds: float) -> Load:
        """Closed loop: each client sends its next call when its last is answered."""
        before = self._cpu()
        done, elapsed = uvloop.run(self._clients(call, seconds))
        after = self._cpu()
        return Load(done / elapsed, {kind: (after[kind] - before[kind]) / done for kind in after})

    async def _clients(
        self, call: Callable[[AsyncClient, int], Awaitable[object]], seconds: float
    ) -> tuple[int, float]:
        async with AsyncClient(self.target) as client:
            await call(client, 0)
            started = time.perf_counter()

            async def one(number: int) -> int:
                done = 0
                while time.perf_counter() - started < seconds:
                    await call(client, number + done * CLIENTS)
                    done += 1
                return done

            counts = await asyncio.gather(*(one(number) for number in range(CLIENTS)))
            return sum(counts), time.perf_counter() - started

    def _cpu(self) -> dict[str, float]:
        seconds = {
            "clients": time.process_time(),
            "gateway": 0.0,
            "tritonserver": 0.0,
            "engine processes": 0.0,
        }
        service = psutil.Process(self.process.pid)
        for process in (service, *service.children(recursive=True)):
            times = process.cpu_times()
            name = process.name()
            kind = (
                "gateway"
                if process.pid == service.pid
                else "tritonserver"
                if name == "tritonserver"
                else "engine processes"
            )
            seconds[kind] += times.user + times.system
        return seconds

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def photos(count: int = 64, side: int = 256) -> list[bytes]:
    """Different JPEGs of side x side pixels: crops of one photo."""
    photo = Image.open(PHOTO)
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        left, top = (int(random.integers(0, extent - side)) for extent in photo.size)
        buffer = io.BytesIO()
        photo.crop((left, top, left + side, top + side)).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def main() -> None:
    """Measure, print, and write build/bench.json."""
    figures = measure()
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nwrote {REPORT}")


def measure() -> dict[str, float]:
    """Measure and print; figures by name. Exits with a sentence when the service does not start."""
    (encode_graph,) = REPOSITORY.glob("*_encode/1/model.onnx")
    (decode_graph,) = REPOSITORY.glob("*_decode_k*/1/model.onnx")
    jpegs = photos()
    served = Served()
    try:
        tokens, size = uvloop.run(_prepare(served.target, jpegs))
        pixels = np.stack([imaging.prepare(photo, size) for photo in jpegs])
        ids = np.stack([sequence.ids for sequence in tokens]).astype(np.int32)
        legs: dict[str, tuple[Bare, Callable[[AsyncClient, int], Awaitable[object]]]] = {
            "encode": (
                Bare("encode", encode_graph, pixels),
                lambda client, i: client.encode(jpegs[i % len(jpegs)]),
            ),
            "decode": (
                Bare("decode", decode_graph, ids),
                lambda client, i: client.decode(tokens[i % len(tokens)], "jpeg"),
            ),
        }
        figures: dict[str, float] = {}
        for name, (bare, call) in legs.items():
            arrangement = bare.best()
            rounds = [
                Round(
                    bare.throughput(PLAIN_LOOP, SECONDS)[0],
                    *bare.throughput(arrangement, SECONDS),
                    served.load(call, SECONDS),
                )
                for _ in range(ROUNDS)
            ]
            figures |= report(name, " ".join(bare.engine), arrangement, rounds)
        return figures
    finally:
        served.stop()


async def _prepare(target: str, jpegs: list[bytes]) -> tuple[list[Tokens], int]:
    async with AsyncClient(target) as client:
        size = (await client.tokenizers())[0].image_size
        return [await client.encode(photo) for photo in jpegs], size


def report(
    name: str, engine: str, arrangement: Arrangement, rounds: list[Round]
) -> dict[str, float]:
    """Print one leg's table; return its figures."""
    median = statistics.median
    plain, best, bare_cpu = (
        median(getattr(one, field) for one in rounds) for field in ("plain", "best", "best_cpu")
    )
    served = median(one.served.throughput for one in rounds)
    over_plain, over_best = (
        median(one.served.throughput / getattr(one, field) for one in rounds)
        for field in ("plain", "best")
    )
    cpu = {kind: median(one.served.cpu[kind] for one in rounds) for kind in rounds[0].served.cpu}
    wall = CORES / served
    print(
        f"\n{name}: {engine}, median of {ROUNDS} rounds of {SECONDS:.0f} s, {CORES} cores, {CLIENTS} clients, JPEG at the image's end"
    )
    print(f"  served           {served:8.1f} images/s")
    print(
        f"  bare graph       {plain:8.1f} images/s   served / bare {over_plain:.3f}   (a plain loop: {PLAIN_LOOP})"
    )
    print(
        f"  bare at its best {best:8.1f} images/s   served / best {over_best:.3f}   ({arrangement})"
    )
    print(
        f"  {1000 * wall:.2f} ms of core time for each served image, {1000 * bare_cpu:.2f} for a bare one at its best; it goes to"
    )
    spent = {
        "the graph, as bare at its best": bare_cpu,
        "engine processes beyond it (hand-over, cache, contention)": cpu["engine processes"]
        - bare_cpu,
        "tritonserver": cpu["tritonserver"],
        "gateway (gRPC, JPEG, resize)": cpu["gateway"],
        "the clients themselves": cpu["clients"],
        "idle": wall - sum(cpu.values()),
    }
    for what, seconds in spent.items():
        print(f"    {1000 * seconds:7.2f} ms  {100 * seconds / wall:5.1f} %  {what}")
    return {
        f"{name}_served_over_bare": over_plain,
        f"{name}_served_over_best_bare": over_best,
        f"{name}_served_per_second": served,
        f"{name}_bare_per_second": plain,
        f"{name}_best_bare_per_second": best,
        **{
            f"{name}_cpu_ms_{kind.replace(' ', '_')}": 1000 * seconds
            for kind, seconds in cpu.items()
        },
    }


if __name__ == "__main__":
    main()
