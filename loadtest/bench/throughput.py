"""`make bench`: images/s through the service against the bare ONNX graph, and where the time goes.

Bare: the engine that the service chooses, in this process, on prepared pixels and ids, in the
fastest of several arrangements of sessions, threads and batch.
Served: `python -m service` with its defaults, 16 gRPC clients on the same cores, JPEG at both ends.
The clients' own CPU time is listed separately.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import uvloop
from channeltok import AsyncClient, Tokens

import imaging
from loadtest.harness import images, process_stats
from loadtest.harness.bare_graph import CORES, REPOSITORY, Arrangement, BareGraph
from loadtest.harness.report import write_report
from loadtest.harness.service_process import Service, running

CLIENTS = 16
ROUNDS = 5
SECONDS = 4.0
REPORT = Path("build/bench.json")
ClientCall: TypeAlias = Callable[[AsyncClient, int], Awaitable[object]]  # (client, call number)


@dataclass(frozen=True)
class Load:
    """Result of one closed loop: images/s, and CPU seconds per image by kind of process."""

    throughput: float
    cpu: dict[str, float]


@dataclass(frozen=True)
class Round:
    """One round: images/s and CPU seconds per image of the bare graph, and the served load."""

    bare: float
    bare_cpu: float
    served: Load


def served_load(service: Service, call: ClientCall, seconds: float) -> Load:
    """Closed loop: each client sends its next call when its last one has been answered."""
    before = _cpu(service)
    count, elapsed = uvloop.run(_run_clients(service.grpc, call, seconds))
    after = _cpu(service)
    return Load(count / elapsed, {kind: (after[kind] - before[kind]) / count for kind in after})


async def _run_clients(target: str, call: ClientCall, seconds: float) -> tuple[int, float]:
    """(number of calls, seconds elapsed)"""
    async with AsyncClient(target) as client:
        await call(client, 0)
        started = time.perf_counter()

        async def repeat(number: int) -> int:
            count = 0
            while time.perf_counter() - started < seconds:
                await call(client, number + count * CLIENTS)
                count += 1
            return count

        counts = await asyncio.gather(*(repeat(number) for number in range(CLIENTS)))
        return sum(counts), time.perf_counter() - started


def _cpu(service: Service) -> dict[str, float]:
    return {"clients": time.process_time(), **process_stats.cpu(service.process.pid)}


def main() -> None:
    """Measure, print, and write build/bench.json."""
    argparse.ArgumentParser(
        prog="python -m loadtest.bench.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    write_report(REPORT, measure())


def measure() -> dict[str, object]:
    """Measure and print; returns the figures by name."""
    (encode_graph,) = REPOSITORY.glob("*_encode/1/model.onnx")
    (decode_graph,) = REPOSITORY.glob("*_decode_k*/1/model.onnx")
    jpegs = images.crops()
    with running() as service:
        tokens, size = uvloop.run(_encode_all(service.grpc, jpegs))
        pixels = np.stack([imaging.prepare(jpeg, size) for jpeg in jpegs])
        ids = np.stack([sequence.ids for sequence in tokens]).astype(np.int32)
        roles: dict[str, tuple[BareGraph, ClientCall]] = {
            "encode": (
                BareGraph(encode_graph, pixels),
                lambda client, i: client.encode(jpegs[i % len(jpegs)]),
            ),
            "decode": (
                BareGraph(decode_graph, ids),
                lambda client, i: client.decode(tokens[i % len(tokens)], "jpeg"),
            ),
        }
        figures: dict[str, object] = {}
        for role, (bare, call) in roles.items():
            arrangement = bare.best()
            rounds = [
                Round(
                    *bare.throughput(arrangement, SECONDS),
                    served_load(service, call, SECONDS),
                )
                for _ in range(ROUNDS)
            ]
            figures |= report(role, " ".join(bare.engine), arrangement, rounds)
        return figures


async def _encode_all(target: str, jpegs: list[bytes]) -> tuple[list[Tokens], int]:
    """(tokens of each image, side of the tokenizer's images)"""
    async with AsyncClient(target) as client:
        size = (await client.tokenizers())[0].image_size
        return [await client.encode(jpeg) for jpeg in jpegs], size


def report(
    role: str, engine: str, arrangement: Arrangement, rounds: list[Round]
) -> dict[str, object]:
    """Print the table of one role; returns its figures."""
    median = statistics.median
    bare = median(row.bare for row in rounds)
    bare_cpu = median(row.bare_cpu for row in rounds)
    served = median(row.served.throughput for row in rounds)
    ratio = median(row.served.throughput / row.bare for row in rounds)
    cpu = {kind: median(row.served.cpu[kind] for row in rounds) for kind in rounds[0].served.cpu}
    wall = CORES / served
    print(
        f"\n{role}: {engine}, median of {ROUNDS} rounds of {SECONDS:.0f} s, {CORES} cores, "
        f"{CLIENTS} clients, images as JPEG\n"
        f"  served         {served:8.1f} images/s\n"
        f"  bare graph     {bare:8.1f} images/s   served / bare {ratio:.3f}   ({arrangement})\n"
        f"  core time per image: {1000 * wall:.2f} ms served, {1000 * bare_cpu:.2f} ms bare; "
        "of the served image's:"
    )
    parts = {
        "the graph, as bare": bare_cpu,
        "engine processes beyond it (transfer, cache, contention)": cpu["engine processes"]
        - bare_cpu,
        "tritonserver": cpu["tritonserver"],
        "gateway (gRPC, JPEG, resize)": cpu["gateway"],
        "the clients themselves": cpu["clients"],
        "idle": wall - sum(cpu.values()),
    }
    for part, seconds in parts.items():
        print(f"    {1000 * seconds:7.2f} ms  {100 * seconds / wall:5.1f} %  {part}")
    return {
        f"{role}_engine": engine,
        f"{role}_best_bare_arrangement": str(arrangement),
        f"{role}_served_over_best_bare": ratio,
        f"{role}_served_per_second": served,
        f"{role}_best_bare_per_second": bare,
        f"{role}_cpu_ms_bare": 1000 * bare_cpu,
        **{
            f"{role}_cpu_ms_{kind.replace(' ', '_')}": 1000 * seconds
            for kind, seconds in cpu.items()
        },
    }


if __name__ == "__main__":
    main()
