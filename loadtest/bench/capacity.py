"""`make capacity`: the images/s at which the p99 of latency still is within an objective, and what becomes of more.

Open loop (loadtest/load/open_loop.py): latencies count from when a call was due. The largest rate that holds the objective is searched by legs
of --seconds each; then the service is asked for more than that. Service and generator share the cores unless --grpc names one elsewhere.
"""

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from channeltok import Client
from channeltok.v1 import tokenizer_pb2 as pb

from loadtest.bench.throughput import photos
from loadtest.harness.service_process import running
from loadtest.load.open_loop import DECODE, ENCODE, Generators, Grpc, Report

K = 256
CALLERS = 16  # of the closed loop that says where to begin
GOOD_SHARE = 0.999  # of a leg's calls that must be answered well
STEP = 1.5
PRECISION = 1.05  # the rates between which the capacity lies, by each other
LEGS = 12  # of a search, at most
BEYOND = (1.25, 1.5, 2.0, 3.0)
REPORT = Path("build/capacity.json")


@dataclass(frozen=True)
class Leg:
    """What came of one rate. Rates in calls/s, the rest in seconds; percentiles are of good answers. late_p99: the generator's own."""

    rate: float
    goodput: float
    p50: float
    p95: float
    p99: float
    good_share: float
    late_p99: float

    @classmethod
    def of(cls, rate: float, report: Report) -> "Leg":
        p50, p95, p99 = (report.latency(percentile, report.good) for percentile in (50, 95, 99))
        share = report.counts().get(report.good, 0) / len(report.codes)
        return cls(rate, report.goodput, p50, p95, p99, share, report.late_p99)

    def holds(self, objective: float) -> bool:
        """Whether nearly all were answered well, and in time."""
        return self.good_share >= GOOD_SHARE and self.p99 <= objective

    def __str__(self) -> str:
        milliseconds = "  ".join(
            f"{1000 * value:7.1f}" for value in (self.p50, self.p95, self.p99, self.late_p99)
        )
        return f"  {self.rate:8.1f}  {self.goodput:8.1f}  {milliseconds}  {self.good_share:7.1%}"


HEAD = f"  {'rate /s':>8}  {'good /s':>8}  {'p50 ms':>7}  {'p95 ms':>7}  {'p99 ms':>7}  {'late':>7}  {'good':>7}"


def search(
    leg: Callable[[float], Leg], start: float, objective: float
) -> tuple[Leg | None, list[Leg]]:
    """The leg of the largest rate that holds the objective, None where none does, and all legs in the order they ran.

    Up or down from `start` by STEP until the objective is held at one rate and missed at another, then halving between them.
    """
    held, missed = None, float("inf")
    legs: list[Leg] = []
    rate = start
    while len(legs) < LEGS and (held is None or missed / held.rate > PRECISION):
        legs.append(leg(rate))
        if legs[-1].holds(objective):
            held = legs[-1]
        else:
            missed = rate
        if held is None:
            rate = missed / STEP
        elif missed == float("inf"):
            rate = held.rate * STEP
        else:
            rate = (held.rate + missed) / 2
    return held, legs


def main() -> None:
    """Search, print each leg, and write build/capacity.json. Exits with 1 where no rate holds the objective."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.capacity", description=__doc__)
    parser.add_argument(
        "--grpc", metavar="HOST:PORT", help="a service elsewhere; without, one is started here"
    )
    parser.add_argument(
        "--objective", type=float, default=0.25, help="p99 of latency in seconds; %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of a leg; %(default)s")
    options = parser.parse_args()
    figures: dict[str, object] = {"objective_seconds": options.objective}
    found = True
    with _service(options.grpc) as address, Generators(1) as generators:
        for role, target in targets(address).items():

            def leg(rate: float, target: Grpc = target) -> Leg:
                done = Leg.of(rate, generators.open_loop(target, rate, options.seconds).result())
                print(done, flush=True)
                return done

            closed = generators.closed_loop(target, CALLERS, options.seconds / 2).result().goodput
            print(
                f"\n{role}: {CALLERS} callers in a closed loop carry {closed:.1f} /s; legs of {options.seconds:g} s\n{HEAD}",
                flush=True,
            )
            held, legs = search(leg, 0.8 * closed, options.objective)
            if held is None:
                found = False
                print(f"no rate holds a p99 of {1000 * options.objective:.0f} ms")
                continue
            print(
                f"capacity at a p99 of {1000 * options.objective:.0f} ms: {held.rate:.1f} /s; beyond it"
            )
            beyond = [leg(times * held.rate) for times in BEYOND]
            figures[role] = {
                "closed_per_second": closed,
                "capacity_per_second": held.rate,
                "legs": [asdict(one) for one in legs],
                "beyond": [asdict(one) for one in beyond],
            }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nwrote {REPORT}")
    if not found:
        raise SystemExit(1)


@contextlib.contextmanager
def _service(address: str | None) -> Iterator[str]:
    if address is not None:
        yield address
        return
    with running() as service:
        yield service.grpc


def targets(address: str) -> dict[str, Grpc]:
    """Encode of different 256 x 256 JPEGs to K tokens, and Decode of their tokens to JPEGs."""
    jpegs = photos()
    with Client(address, timeout=60) as client:
        tokens = [client.encode(jpeg, K).to_bytes() for jpeg in jpegs]
    encode = tuple(pb.EncodeRequest(image=jpeg, k=K).SerializeToString() for jpeg in jpegs)
    decode = tuple(
        pb.DecodeRequest(tokens=one, format=pb.IMAGE_FORMAT_JPEG).SerializeToString()
        for one in tokens
    )
    return {"encode": Grpc(address, ENCODE, encode), "decode": Grpc(address, DECODE, decode)}


if __name__ == "__main__":
    main()
