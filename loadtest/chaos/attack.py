"""The frame of all attacks: rows of a measured figure and its limit."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psutil


@dataclass(frozen=True)
class Row:
    """A measured figure. It holds at or below `limit`, or at or above it with `at_least`.

    name: its key in build/chaos.json. label: its line in tables. limit: None for a figure without
    a requirement. note: details beside the number.
    """

    name: str
    label: str
    value: float
    limit: float | None = None
    at_least: bool = False
    unit: str = ""
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the limit holds; never for a value that is not a number (not measured)."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def cells(self) -> tuple[str, str, str, str]:
        """(label, measured, limit, holds) as shown in tables"""
        measured = _number(self.value) + self.unit * math.isfinite(self.value)
        if self.note:
            measured += f" ({self.note})"
        if self.limit is None:
            return self.label, measured, "", ""
        limit = f"{'>=' if self.at_least else '<='} {_number(self.limit)}{self.unit}"
        return self.label, measured, limit, "yes" if self.holds else "NO"


Rows: TypeAlias = Iterator[Row]


@dataclass(frozen=True)
class Attack:
    """run: yields the rows; with True, of a short form that takes seconds."""

    name: str
    title: str
    run: Callable[[bool], Rows]

    def rows(self, short: bool) -> Rows:
        """The attack's rows and its duration. An exception becomes a row that does not hold."""
        started, cores = time.monotonic(), CoreShare()
        try:
            yield from self.run(short)
        except Exception as error:
            message = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            note = f"{type(error).__name__}: {message}"
            yield Row(f"{self.name}_aborted", "attacks aborted", 1, 0, note=note)
        seconds = time.monotonic() - started
        note = f"{1 - cores.share():.0%} of the cores' time went to other tenants of the machine"
        yield Row(f"{self.name}_seconds", "duration of the attack", seconds, unit=" s", note=note)


@dataclass
class CoreShare:
    """Share of the cores' time that the hypervisor gave this machine since construction."""

    since: Any = field(default_factory=psutil.cpu_times)

    def share(self) -> float:
        """0 to 1, of the time in which the machine had work; 1 without other tenants."""
        now = psutil.cpu_times()
        total, idle, stolen = (
            of(now) - of(self.since)
            for of in (sum, lambda times: times.idle + times.iowait, lambda times: times.steal)
        )
        return float(1 - stolen / max(total - idle, 1e-9))


def tally(names: list[str]) -> str:
    """`3 UNAVAILABLE, 1 INTERNAL` from a list of names, the most frequent first."""
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
