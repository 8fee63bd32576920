"""Write the results of a run: build/chaos.json, and docs/reliability.md with the machine's name."""

import datetime
import math

from loadtest.chaos.attack import Attack, Row
from loadtest.harness.report import machine, write_report
from loadtest.harness.service_process import ROOT

FIGURES = ROOT / "build/chaos.json"
PAGE = ROOT / "docs/reliability.md"
Results = list[tuple[Attack, list[Row]]]

HEAD = """# Reliability

Attacks on the real service (real processes, connections and kills) and what was measured meanwhile.
`make chaos` prints this table and exits non-zero if a limit does not hold;
`python -m loadtest.chaos --write` also writes this page.
CI runs a short form of some attacks (`make chaos-short`), `make test-full` of all.

Measured on {machine}, {date}.
Service and attackers shared the cores.
**{holding} of {limits} limits hold.**
"""
MEMORY = """## Memory

The service's processes take at most `max_memory`
([decision 40](decisions/0040-memory-budget.md)): one of the attacks asks for more.
"""


def write_figures(results: Results) -> None:
    """Write name -> value for all rows; null for what was not measured or never happened."""
    figures = {
        row.name: row.value if math.isfinite(row.value) else None
        for _, rows in results
        for row in rows
    }
    write_report(FIGURES, figures)


def write_page(results: Results) -> None:
    """Write the page: a section per attack."""
    limited = [row for _, rows in results for row in rows if row.limit is not None]
    parts = [
        HEAD.format(
            machine=machine(),
            date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            holding=sum(row.holds for row in limited),
            limits=len(limited),
        ),
        MEMORY,
    ]
    for attack, rows in results:
        lines = ["| measured | figure | limit | holds |", "|---|---|---|---|"]
        lines += [
            f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |" for row in rows
        ]
        parts.append(f"## {attack.title}\n\n" + "\n".join(lines) + "\n")
    PAGE.write_text("\n".join(parts))
