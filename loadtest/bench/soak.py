"""`make soak`: 80 % of the capacity for a quarter of an hour, Encode and Decode by turns, open loop; nothing may fail, grow or slow down.

A row a minute: rate, good answers/s, percentiles, memory of all processes of the service, and the noise: cores that others used meanwhile.
Each minute is a leg of its own, on new connections. The first is to warm up. Exits with 1 unless every call was answered well, memory of
the last minutes is within 5 % of the first's, and p99 of the last minute within 10 % of the first's.
"""

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.bench.capacity import CALLERS, Leg, search, targets
from loadtest.harness import process_stats
from loadtest.harness.service_process import running
from loadtest.load.open_loop import Generators, Mixed

SHARE = 0.8  # of the capacity
OBJECTIVE = 0.25  # p99 in seconds, at which capacity is sought
SEARCH_SECONDS = 8.0
MEMORY_GROWTH, P99_GROWTH = 0.05, 0.10
LAST = 3  # minutes whose median is the memory at the end
REPORT = Path("build/soak.json")


@dataclass(frozen=True)
class Minute:
    """memory: resident bytes at its end. noise: cores that others used."""

    leg: Leg
    memory: int
    noise: float

    def __str__(self) -> str:
        leg = self.leg
        return (
            f"{leg.rate:8.1f}  {leg.goodput:8.1f}  {1000 * leg.p50:7.1f}  {1000 * leg.p99:7.1f}  {leg.good_share:8.3%}"
            f"  {self.memory / 1e6:9.1f}  {self.noise:11.2f}"
        )


HEAD = f"{'minute':>6}  {'rate /s':>8}  {'good /s':>8}  {'p50 ms':>7}  {'p99 ms':>7}  {'good':>8}  {'memory MB':>9}  {'noise cores':>11}"


def wrong(minutes: list[Minute]) -> list[str]:
    """What did not hold, in sentences, of the minutes after the warm-up."""
    first, last = minutes[0], minutes[-1]
    found = [
        f"minute {number}: {1 - minute.leg.good_share:.3%} of the calls failed"
        for number, minute in enumerate(minutes, 1)
        if minute.leg.good_share < 1
    ]
    memory = statistics.median(minute.memory for minute in minutes[-LAST:]) / first.memory - 1
    if abs(memory) > MEMORY_GROWTH:
        found.append(f"memory changed by {memory:+.1%}")
    if last.leg.p99 > (1 + P99_GROWTH) * first.leg.p99:
        found.append(f"p99 went from {1000 * first.leg.p99:.1f} to {1000 * last.leg.p99:.1f} ms")
    return found


def main() -> None:
    """Run, print each minute, and write build/soak.json. Exits with 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.soak", description=__doc__)
    parser.add_argument(
        "--rate",
        type=float,
        help=f"calls/s; without, {SHARE} of the capacity, which is sought first",
    )
    parser.add_argument(
        "--minutes", type=int, default=15, help="after the one to warm up; %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of a minute; %(default)s")
    options = parser.parse_args()
    with running() as service, Generators(1) as generators:
        target = Mixed(tuple(targets(service.grpc).values()))
        rate = options.rate or SHARE * _capacity(generators, target)
        print(HEAD, flush=True)
        noise = process_stats.Noise()
        minutes = []
        for number in range(options.minutes + 1):
            leg = Leg.of(rate, generators.open_loop(target, rate, options.seconds).result())
            minutes.append(
                Minute(leg, process_stats.read(service.process.pid).memory, noise.since())
            )
            print(f"{number or 'warm':>6}  {minutes[-1]}", flush=True)
    found = wrong(minutes[1:])
    figures = {
        "rate_per_second": rate,
        "seconds": options.seconds,
        "minutes": [asdict(minute) for minute in minutes],
        "wrong": found,
    }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"wrote {REPORT}")
    if found:
        raise SystemExit("\n".join(found))
    print("no call failed, memory is flat, p99 is what it was")


def _capacity(generators: Generators, target: Mixed) -> float:
    """Calls/s that hold the objective. SystemExit where none does."""
    closed = generators.closed_loop(target, CALLERS, SEARCH_SECONDS / 2).result().goodput
    held, _ = search(
        lambda rate: Leg.of(rate, generators.open_loop(target, rate, SEARCH_SECONDS).result()),
        SHARE * closed,
        OBJECTIVE,
    )
    if held is None:
        raise SystemExit(f"no rate holds a p99 of {1000 * OBJECTIVE:.0f} ms")
    print(f"capacity at a p99 of {1000 * OBJECTIVE:.0f} ms: {held.rate:.1f} calls/s")
    return held.rate


if __name__ == "__main__":
    main()
