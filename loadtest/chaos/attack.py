"""The frame that attacks share: rows of what was measured against what must hold."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psutil


@dataclass(frozen=True)
class Row:
    """One measured figure. name: its key in build/chaos.json. It holds at or below `limit`, or, with `at_least`, at or above it.

    limit None: a figure to know, which nothing is asked of. note: what people should know beside the number.
    """

    name: str
    what: str
    value: float
    limit: float | None = None
    at_least: bool = False
    unit: str = ""
    note: str = ""

    @property
    def holds(self) -> bool:
        """What could not be measured (not a number) does not hold."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def cells(self) -> tuple[str, str, str, str]:
        """what, measured, limit, holds: as tables show them."""
        limit = (
            ""
            if self.limit is None
            else f"{'>=' if self.at_least else '<='} {_number(self.limit)}{self.unit}"
        )
        measured = (
            _number(self.value)
            + self.unit * math.isfinite(self.value)
            + (f" ({self.note})" if self.note else "")
        )
        return (
            self.what,
            measured,
            limit,
            "" if self.limit is None else "yes" if self.holds else "NO",
        )


Rows: TypeAlias = Iterator[Row]


@dataclass(frozen=True)
class Attack:
    """title: the attack in a line. run: yields its rows; short=True: the same in seconds, for CI."""

    name: str
    title: str
    run: Callable[[bool], Rows]

    def rows(self, short: bool) -> Rows:
        """Its rows, and how long it took. An attack that cannot go on ends with a row that does not hold and says why."""
        started, given = time.monotonic(), Given()
        try:
            yield from self.run(short)
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()
            yield Row(
                f"{self.name}_broke_off",
                "attacks broken off",
                1,
                0,
                note=f"{type(error).__name__}: {why[0][:160]}",
            )
        lost = f"{1 - given.share():.0%} of the cores' time went to other tenants of the machine"
        yield Row(
            f"{self.name}_seconds",
            "the attack took",
            time.monotonic() - started,
            unit=" s",
            note=lost,
        )


@dataclass
class Given:
    """How much of the cores this virtual machine got since this was made, while it had work for them."""

    since: Any = field(default_factory=psutil.cpu_times)

    def share(self) -> float:
        """0 to 1; 1 where nobody else runs on the machine."""
        now = psutil.cpu_times()
        total, idle, stolen = (
            of(now) - of(self.since)
            for of in (sum, lambda times: times.idle + times.iowait, lambda times: times.steal)
        )
        return float(1 - stolen / max(total - idle, 1e-9))


def counted(names: list[str]) -> str:
    """`3 UNAVAILABLE, 1 INTERNAL` out of a list of codes, the most frequent first."""
    return ", ".join(
        f"{names.count(name)} {name}" for name in sorted(set(names), key=names.count, reverse=True)
    )


def _number(value: float) -> str:
    if math.isnan(value):
        return "not measured"
    if math.isinf(value):
        return "never"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
