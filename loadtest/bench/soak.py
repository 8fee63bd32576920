"""`make soak`: 80 % of capacity for 15 minutes; no call may fail, memory and p99 must stay flat.

Open loop, Encode and Decode in turn. One row per minute: rate, successful calls/s, percentiles,
memory of all processes of the service, and noise (cores used by other programs). Each minute uses
new connections; the first one is a warm-up. Exits 1 unless every call succeeded, the memory of the
last minutes is within 5 % of the first minute's, and p99 of the last minutes is at most 10 % over
that of the first ones.
"""

import argparse
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.harness import process_stats
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running
from loadtest.load.capacity_search import CLIENTS, Run, search
from loadtest.load.open_loop import Generators, Mixed
from loadtest.load.targets import gateway_targets

SHARE = 0.8  # of the capacity
OBJECTIVE = 0.25  # p99 in seconds that defines the capacity
SEARCH_SECONDS = 8.0
MEMORY_GROWTH, P99_GROWTH = 0.05, 0.10
# Minutes at either end whose medians are compared: the p99 of one minute is that of 46 calls, which
# one stall of the machine can double.
ENDS = 3
REPORT = Path("build/soak.json")


@dataclass(frozen=True)
class Minute:
    """memory: resident bytes at the end. noise: cores used by other programs."""

    run: Run
    memory: int
    noise: float

    def __str__(self) -> str:
        run = self.run
        return (
            f"{run.rate:8.1f}  {run.goodput:8.1f}  {1000 * run.p50:7.1f}  {1000 * run.p99:7.1f}  "
            f"{run.good_share:8.3%}  {self.memory / 1e6:9.1f}  {self.noise:11.2f}"
        )


HEAD = (
    f"{'minute':>6}  {'rate /s':>8}  {'good /s':>8}  {'p50 ms':>7}  {'p99 ms':>7}  {'good':>8}  "
    f"{'memory MB':>9}  {'noise cores':>11}"
)


def failures(minutes: list[Minute]) -> list[str]:
    """What did not hold in the minutes after the warm-up, in sentences."""
    sentences = [
        f"minute {number}: {1 - minute.run.good_share:.3%} of the calls failed"
        for number, minute in enumerate(minutes, 1)
        if minute.run.good_share < 1
    ]
    at_end = statistics.median(minute.memory for minute in minutes[-ENDS:])
    memory = at_end / minutes[0].memory - 1
    if abs(memory) > MEMORY_GROWTH:
        sentences.append(f"memory changed by {memory:+.1%}")
    before, after = (
        statistics.median(minute.run.p99 for minute in end)
        for end in (minutes[:ENDS], minutes[-ENDS:])
    )
    if after > (1 + P99_GROWTH) * before:
        sentences.append(f"p99 went from {1000 * before:.1f} to {1000 * after:.1f} ms")
    return sentences


def main() -> None:
    """Run, print each minute, and write build/soak.json. Exits 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.soak", description=__doc__)
    parser.add_argument(
        "--rate", type=float, help=f"calls/s; by default the capacity is measured, times {SHARE}"
    )
    parser.add_argument(
        "--minutes", type=int, default=15, help="number of minutes after the warm-up (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="length of a minute (%(default)s)"
    )
    options = parser.parse_args()
    with running(max_queue_seconds="0.1") as service, Generators(1) as generators:
        target = Mixed(tuple(gateway_targets(service.grpc).values()))
        rate = options.rate or SHARE * _capacity(generators, target)
        print(HEAD, flush=True)
        noise = process_stats.Noise()
        minutes = []
        for number in range(options.minutes + 1):
            run = Run.of(rate, generators.open_loop(target, rate, options.seconds).result())
            memory = process_stats.read(service.process.pid).memory
            minutes.append(Minute(run, memory, noise.since()))
            print(f"{number or 'warm':>6}  {minutes[-1]}", flush=True)
    failed = failures(minutes[1:])
    figures = {
        "rate_per_second": rate,
        "seconds": options.seconds,
        "minutes": [asdict(minute) for minute in minutes],
        "failures": failed,
    }
    write_report(REPORT, figures)
    if failed:
        raise SystemExit("\n".join(failed))
    print("no call failed; memory and p99 are flat")


def _capacity(generators: Generators, target: Mixed) -> float:
    """Highest rate in calls/s that holds the objective. SystemExit if none does."""
    closed = generators.closed_loop(target, CLIENTS, SEARCH_SECONDS / 2).result().goodput
    held, _ = search(
        lambda rate: Run.of(rate, generators.open_loop(target, rate, SEARCH_SECONDS).result()),
        SHARE * closed,
        OBJECTIVE,
    )
    if held is None:
        raise SystemExit(f"no rate holds a p99 of {1000 * OBJECTIVE:.0f} ms")
    print(f"capacity at a p99 of {1000 * OBJECTIVE:.0f} ms: {held.rate:.1f} calls/s")
    return held.rate


if __name__ == "__main__":
    main()
