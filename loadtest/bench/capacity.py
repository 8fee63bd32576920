"""`make capacity`: highest request rate with p99 latency within an objective, and what lies above.

Open loop (loadtest/load/open_loop.py): latency counts from the time a call was due. A search
(loadtest/load/capacity_search.py) over runs of --seconds each finds the highest rate that holds
the objective; then higher rates are tried.
Service and load generator share the cores unless --grpc names a service elsewhere.
"""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from loadtest.harness.report import write_report
from loadtest.harness.service_process import running
from loadtest.load.capacity_search import CLIENTS, HEAD, Run, search
from loadtest.load.open_loop import Generators, Grpc
from loadtest.load.targets import gateway_targets

BEYOND = (1.25, 1.5, 2.0, 3.0)  # rates above the capacity, as multiples of it
REPORT = Path("build/capacity.json")


def main() -> None:
    """Search, print each run, write build/capacity.json. Exits 1 if no rate holds the objective."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.capacity", description=__doc__)
    parser.add_argument(
        "--grpc", metavar="HOST:PORT", help="a running service; by default one is started here"
    )
    parser.add_argument(
        "--objective", type=float, default=0.25, help="p99 latency in seconds (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a run (%(default)s)")
    options = parser.parse_args()
    objective = f"a p99 of {1000 * options.objective:.0f} ms"
    figures: dict[str, object] = {"objective_seconds": options.objective}
    failed = False
    with _service(options.grpc) as address, Generators(1) as generators:
        for role, target in gateway_targets(address).items():

            def measure(rate: float, target: Grpc = target) -> Run:
                report = generators.open_loop(target, rate, options.seconds).result()
                run = Run.of(rate, report)
                print(run, flush=True)
                return run

            closed = generators.closed_loop(target, CLIENTS, options.seconds / 2).result().goodput
            print(
                f"\n{role}: {CLIENTS} clients in a closed loop reach {closed:.1f} calls/s; "
                f"runs of {options.seconds:g} s\n{HEAD}",
                flush=True,
            )
            held, runs = search(measure, 0.8 * closed, options.objective)
            if held is None:
                failed = True
                print(f"no rate holds {objective}")
                continue
            print(f"capacity at {objective}: {held.rate:.1f} calls/s; above it:")
            beyond = [measure(factor * held.rate) for factor in BEYOND]
            figures[role] = {
                "closed_per_second": closed,
                "capacity_per_second": held.rate,
                "runs": [asdict(run) for run in runs],
                "beyond": [asdict(run) for run in beyond],
            }
    write_report(REPORT, figures)
    if failed:
        raise SystemExit(1)


@contextlib.contextmanager
def _service(address: str | None) -> Iterator[str]:
    if address is not None:
        yield address
        return
    # What the page says of a p99 of 250 ms holds with this setting.
    with running(max_queue_seconds="0.1") as service:
        yield service.grpc


if __name__ == "__main__":
    main()
