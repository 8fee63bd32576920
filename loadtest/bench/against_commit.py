"""`make bench-before`: the present service beside an older commit's, in turns.

Encode (JPEG 256 x 256, 256 tokens) and Decode (to JPEG) over gRPC: throughput and core time of the
gateway for an image with 16 callers, and the latency of a single caller. Both services run all the
time; the one that is not called only answers its probes.

Each ratio is the median of the rounds' ratios. `make bench-serving` includes this.
"""

import argparse
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from loadtest.harness import checkout, process_stats
from loadtest.harness.bare_graph import CORES
from loadtest.harness.report import write_report
from loadtest.harness.service_process import Service, running
from loadtest.load.capacity_search import CLIENTS
from loadtest.load.open_loop import Generators, Grpc
from loadtest.load.targets import gateway_targets

# The last commit before gateway and engines were made faster for single and for many callers.
BASELINE = "bbf65ce"
REPORT = Path("build/bench-before.json")


@dataclass(frozen=True)
class Speed:
    """One role of one service.

    per_second: images/s with 16 callers. gateway_ms, engine_ms: core time for an image meanwhile,
    in ms. p99_ms: latency meanwhile. lone_p50_ms: latency of a single caller.
    """

    per_second: float
    gateway_ms: float
    engine_ms: float
    p99_ms: float
    lone_p50_ms: float


def main() -> None:
    """Measure, print, and write build/bench-before.json."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.against_commit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--baseline", metavar="COMMIT", default=BASELINE, help="the older commit (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of each run (%(default)s)"
    )
    options = parser.parse_args()
    with Generators(1) as generators:
        figures = measure(
            generators, checkout.unpacked(options.baseline), options.rounds, options.seconds
        )
    write_report(REPORT, figures)


def measure(
    generators: Generators, old: Path, rounds: int, seconds: float
) -> dict[str, float | str]:
    """Measure and print; returns the figures by name. old: folder of the older commit."""
    figures: dict[str, float | str] = {"before": old.name}
    print(f"\n{old.name} before, the present code after: {CORES} cores, {CLIENTS} callers")
    with running(checkout=str(old)) as before, running() as after:
        services = (before, after)
        targets = [gateway_targets(service.grpc) for service in services]
        for role in targets[0]:
            pairs: list[tuple[Speed, Speed]] = []
            for number in range(rounds):
                turns = list(enumerate(services))[:: -1 if number % 2 else 1]
                speeds = {
                    place: _speed(service, generators, targets[place][role], seconds)
                    for place, service in turns
                }
                pairs.append((speeds[0], speeds[1]))
            figures |= _report(role, pairs)
    return figures


def _speed(service: Service, generators: Generators, target: Grpc, seconds: float) -> Speed:
    lone = generators.closed_loop(target, 1, seconds).result()
    started = process_stats.cpu(service.process.pid)
    crowd = generators.closed_loop(target, CLIENTS, seconds).result()
    ended = process_stats.cpu(service.process.pid)
    gateway, engine = (
        1000 * (ended[kind] - started[kind]) / len(crowd.codes)
        for kind in ("gateway", "engine processes")
    )
    return Speed(crowd.goodput, gateway, engine, 1000 * crowd.latency(99), 1000 * lone.latency(50))


def _report(role: str, pairs: list[tuple[Speed, Speed]]) -> dict[str, float]:
    """Print the table of one role; returns its figures."""
    values = np.array([[astuple(speed) for speed in pair] for pair in pairs])
    before, after = np.median(values, axis=0)
    ratios = np.median(values[:, 1] / values[:, 0], axis=0)
    print(f"\n| {role} | before | after | after / before |\n|---|---|---|---|")
    figures: dict[str, float] = {}
    for place, field in enumerate(fields(Speed)):
        old, new, ratio = (float(column[place]) for column in (before, after, ratios))
        print(f"| {field.name} | {old:.2f} | {new:.2f} | {ratio:.2f} |", flush=True)
        figures[f"{role}_{field.name}"] = new
        figures[f"{role}_{field.name}_over_before"] = ratio
    return figures


if __name__ == "__main__":
    main()
