"""Search for the highest request rate at which p99 latency stays within an objective."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.load.open_loop import Report

CLIENTS = 16  # of the closed loop that gives the first rate to try
GOOD_SHARE = 0.999  # share of calls that must succeed
STEP = 1.5
# The search ends once the lowest missed rate is within this factor of the held one.
PRECISION = 1.05
MAX_RUNS = 12


@dataclass(frozen=True)
class Run:
    """Open-loop result at one rate. Rates in calls/s, the rest in seconds.

    Percentiles are of successful calls. late_p99: how late the load generator itself was.
    """

    rate: float
    goodput: float
    p50: float
    p95: float
    p99: float
    good_share: float
    late_p99: float

    @classmethod
    def of(cls, rate: float, report: Report) -> "Run":
        p50, p95, p99 = (report.latency(percentile, report.good) for percentile in (50, 95, 99))
        share = report.counts().get(report.good, 0) / len(report.codes)
        return cls(rate, report.goodput, p50, p95, p99, share, report.late_p99)

    def holds(self, objective: float) -> bool:
        """Whether nearly all calls succeeded and p99 is within `objective` seconds."""
        return self.good_share >= GOOD_SHARE and self.p99 <= objective

    def __str__(self) -> str:
        milliseconds = "  ".join(
            f"{1000 * value:7.1f}" for value in (self.p50, self.p95, self.p99, self.late_p99)
        )
        return f"  {self.rate:8.1f}  {self.goodput:8.1f}  {milliseconds}  {self.good_share:7.1%}"


HEAD = "  " + "  ".join(
    [f"{name:>8}" for name in ("rate /s", "good /s")]
    + [f"{name:>7}" for name in ("p50 ms", "p95 ms", "p99 ms", "late", "good")]
)


def search(
    measure: Callable[[float], Run], start: float, objective: float
) -> tuple[Run | None, list[Run]]:
    """(the run at the highest rate that holds the objective, or None; all runs in order)

    Multiplies or divides `start` by STEP until one rate holds and one misses, then bisects.
    """
    held, missed = None, float("inf")
    runs: list[Run] = []
    rate = start
    while len(runs) < MAX_RUNS and (held is None or missed / held.rate > PRECISION):
        runs.append(measure(rate))
        if runs[-1].holds(objective):
            held = runs[-1]
        else:
            missed = rate
        if held is None:
            rate = missed / STEP
        elif missed == float("inf"):
            rate = held.rate * STEP
        else:
            rate = (held.rate + missed) / 2
    return held, runs
