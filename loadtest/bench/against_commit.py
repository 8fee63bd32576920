"""`make bench-before`: the present service beside an older commit's, in turns.

Encode (JPEG 256 x 256, 256 tokens) and Decode (to JPEG) over gRPC, by 1, 16 and 64 callers:
throughput, latency, and core time for an image. Both services run all the time; the one that is not
called only answers its probes. Beside them the least that a gateway can do, in front of the present
service's Triton: only joining requests goes below it.

Each ratio is the median of the rounds' ratios. `make bench-serving` includes this.
"""

import argparse
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.bench.least_gateway import least_gateway
from loadtest.harness import checkout, process_stats
from loadtest.harness.bare_graph import CORES
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running
from loadtest.load.open_loop import Generators, Grpc
from loadtest.load.targets import gateway_targets

# The last commit before calls took less of the gateway, and long queues deeper batches.
BASELINE = "bbf65ce"
CLIENTS = (1, 16, 64)
REPORT = Path("build/bench-before.json")


@dataclass(frozen=True)
class Load:
    """One closed loop: images/s, latency in ms, and ms of a core for each image."""

    per_second: float
    p50_ms: float
    p99_ms: float
    gateway_ms: float
    engine_ms: float


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
        "--seconds", type=float, default=4.0, help="length of each run (%(default)s)"
    )
    options = parser.parse_args()
    old = checkout.unpacked(options.baseline)
    with Generators(1) as generators:
        write_report(REPORT, measure(generators, options.rounds, options.seconds, old))


def measure(
    generators: Generators, rounds: int, seconds: float, old: Path | None = None
) -> dict[str, object]:
    """Measure and print; returns the figures by name. old: folder of the older commit."""
    old = checkout.unpacked(BASELINE) if old is None else old
    figures: dict[str, object] = {"before": old.name}
    print(f"\n{old.name}, and the present code after it; {CORES} cores, medians of {rounds} rounds")
    with (
        running(checkout=str(old)) as before,
        running() as after,
        least_gateway(after.triton_address()) as (least, least_address),
    ):
        targets = [gateway_targets(service.grpc) for service in (before, after)]
        targets.append(
            {role: replace(one, address=least_address) for role, one in targets[1].items()}
        )
        processes = (
            (before.process.pid,) * 2,
            (after.process.pid,) * 2,
            (least, after.process.pid),
        )
        for role in targets[0]:
            for clients in CLIENTS:
                rows = []
                for number in range(rounds):
                    row = {}
                    for place in range(3) if number % 2 == 0 else reversed(range(3)):
                        target = targets[place][role]
                        row[place] = _load(processes[place], generators, target, clients, seconds)
                    rows.append([astuple(row[place]) for place in range(3)])
                figures |= _report(role, clients, np.array(rows))
    figures["lone_encode_p50_over_before"] = figures["encode_c1_p50_ms_over_before"]
    for role in targets[0]:
        ratio = figures[f"{role}_c16_gateway_ms_over_before"]
        figures[f"{role}_gateway_ms_per_image_over_before"] = ratio
    return figures


def _load(
    processes: tuple[int, int], generators: Generators, target: Grpc, clients: int, seconds: float
) -> Load:
    """processes: of the gateway, and the one whose children are its engines."""
    started = [process_stats.cpu(process) for process in processes]
    report = generators.closed_loop(target, clients, seconds).result()
    ended = [process_stats.cpu(process) for process in processes]
    if report.counts().keys() != {report.good}:
        raise RuntimeError(f"calls failed: {report.counts()}")
    gateway, engine = (
        1000 * (after[kind] - before[kind]) / len(report.codes)
        for kind, before, after in zip(("gateway", "engine processes"), started, ended, strict=True)
    )
    p50, p99 = (1000 * report.latency(percentile) for percentile in (50, 99))
    return Load(report.goodput, p50, p99, gateway, engine)


def _report(role: str, clients: int, rows: NDArray[np.float64]) -> dict[str, float]:
    """Print the table of one load; returns its figures. rows: [rounds, 3, fields of Load]."""
    before, after, least = np.median(rows, axis=0)
    ratios, least_ratios = (np.median(rows[:, i] / rows[:, 0], axis=0) for i in (1, 2))
    print(
        f"\n| {role}, {clients} callers | before | after | after / before | least "
        "| least / before |\n|---|---|---|---|---|---|"
    )
    figures: dict[str, float] = {}
    for place, field in enumerate(fields(Load)):
        columns = (before, after, ratios, least, least_ratios)
        old, new, ratio, floor, floor_ratio = (float(column[place]) for column in columns)
        print(
            f"| {field.name} | {old:.2f} | {new:.2f} | {ratio:.2f} | {floor:.2f} "
            f"| {floor_ratio:.2f} |",
            flush=True,
        )
        name = f"{role}_c{clients}_{field.name}"
        figures |= {name: new, f"{name}_over_before": ratio}
        figures |= {f"{name}_least": floor, f"{name}_least_over_before": floor_ratio}
    return figures


if __name__ == "__main__":
    main()
