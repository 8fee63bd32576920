"""What is left of a run: build/chaos.json, and docs/reliability.md with the machine it was measured on."""

import datetime
import json
import math
import os
from pathlib import Path

import psutil

from loadtest.chaos.attack import Attack, Row
from loadtest.chaos.bombs import BYTES_PER_PIXEL, GIB, IDLE_SYSTEM, memory_limit
from loadtest.harness.service_process import ROOT
from service.settings import Settings

FIGURES = ROOT / "build/chaos.json"
PAGE = ROOT / "docs/reliability.md"
Results = list[tuple[Attack, list[Row]]]

HEAD = """# Reliability

What the service was put through, and what was measured meanwhile: real processes, real connections, real kills. `make chaos` prints this
table and exits non-zero when a line does not hold; `python -m loadtest.chaos --write` also writes this page. A shorter form of every attack
runs in CI (`tests/chaos`).

QualityPoint on {machine}, {date}; service and attackers shared the cores. **{holding} of {asked} lines hold.**
"""
MEMORY = """## Memory

The service's processes take at most, resident:

    {idle:g} GiB + (max_in_flight + max_queue_size) x max_message_bytes + image_threads x max_pixels x {pixel} bytes

{limit:.1f} GiB with the defaults on this machine: itself at rest, a largest message for every image that may be in it, and an image
of the most pixels in every thread that reads images. Lower those settings for a smaller machine. Bodies that are still on their way
count per connection, not per image: a hundred stalled uploads are part of the attack below, `max_connections` of them are not.
"""


def write_figures(results: Results) -> None:
    """Flat: name -> number. What was not measured, or never came about, is null."""
    figures = {
        row.name: row.value if math.isfinite(row.value) else None
        for _, rows in results
        for row in rows
    }
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n")


def write_page(results: Results) -> None:
    """All attacks, in their order."""
    asked = [row for _, rows in results for row in rows if row.limit is not None]
    today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    parts = [
        HEAD.format(
            machine=machine(), date=today, holding=sum(row.holds for row in asked), asked=len(asked)
        )
    ]
    parts.append(
        MEMORY.format(
            idle=IDLE_SYSTEM / GIB, pixel=BYTES_PER_PIXEL, limit=memory_limit(Settings()) / GIB
        )
    )
    for attack, rows in results:
        lines = ["| measured | figure | limit | holds |", "|---|---|---|---|"]
        lines += [
            f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |" for row in rows
        ]
        parts.append(f"## {attack.title}\n\n" + "\n".join(lines) + "\n")
    PAGE.write_text("\n".join(parts))


def machine() -> str:
    """`AMD EPYC, 2 cores, 24 GB`."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else 'a processor'}, {len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 1e9:.0f} GB"
