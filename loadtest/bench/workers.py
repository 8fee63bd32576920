"""`make bench-workers`: core time that one and two gateway workers take for an image.

The models compute nothing, so the gateway is what limits: `--workers` 1 and 2 in turns, 64 callers
over 8 connections in two processes of their own. Callers, gateways and Triton share the machine's
cores, so images/s of two workers say nothing on a machine of two; core time of the gateways does.
"""

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path

from loadtest.bench.gateway_overhead import ROLES, identity_models
from loadtest.harness import process_stats
from loadtest.harness.bare_graph import CORES
from loadtest.harness.report import write_report
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import Generators, Grpc
from loadtest.load.targets import gateway_targets

WORKERS = (1, 2)
GENERATORS = 2
CLIENTS = 32  # of each generator
REPORT = Path("build/bench-workers.json")


def main() -> None:
    """Measure, print, and write build/bench-workers.json."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.workers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="length of each run (%(default)s)"
    )
    options = parser.parse_args()
    with Generators(GENERATORS) as generators:
        write_report(REPORT, measure(generators, options.rounds, options.seconds))


def measure(generators: Generators, rounds: int, seconds: float) -> dict[str, float]:
    """Measure and print; returns the figures by name."""
    figures: dict[str, float] = {}
    print(f"{CORES} cores, {GENERATORS * CLIENTS} callers, medians of {rounds} rounds")
    print("\n| role, workers | images/s | ms of a gateway core | images/s of a gateway core |")
    print("|---|---|---|---|")
    with identity_models() as models, ExitStack() as stack:
        services = {
            workers: stack.enter_context(running(model_repository=models, workers=str(workers)))
            for workers in WORKERS
        }
        for role in ROLES:
            targets = {
                workers: gateway_targets(service.grpc)[role]
                for workers, service in services.items()
            }
            rows: dict[int, list[tuple[float, float]]] = {workers: [] for workers in WORKERS}
            for _ in range(rounds):
                for workers, service in services.items():
                    rows[workers].append(_load(service, generators, targets[workers], seconds))
            for workers, pairs in rows.items():
                rate, taken = (statistics.median(column) for column in zip(*pairs, strict=True))
                print(f"| {role}, {workers} | {rate:.0f} | {taken:.2f} | {1000 / taken:.0f} |")
                figures[f"{role}_w{workers}_per_second"] = rate
                figures[f"{role}_w{workers}_gateway_ms"] = taken
    return figures


def _load(
    service: Service, generators: Generators, target: Grpc, seconds: float
) -> tuple[float, float]:
    """(images/s, ms of the gateways' cores for an image)"""
    before = process_stats.cpu(service.process.pid)["gateway"]
    loops = [generators.closed_loop(target, CLIENTS, seconds) for _ in range(GENERATORS)]
    reports = [loop.result() for loop in loops]
    used = process_stats.cpu(service.process.pid)["gateway"] - before
    for report in reports:
        if report.counts().keys() != {report.good}:
            raise RuntimeError(f"calls failed: {report.counts()}")
    return (
        sum(report.goodput for report in reports),
        1000 * used / sum(len(report.codes) for report in reports),
    )


if __name__ == "__main__":
    main()
