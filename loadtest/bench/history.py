"""The benchmarks' ratios over time, for loadtest/bench/performance_page.py.

Only ratios within one run compare over days and machines; images/s do not.
"""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.dates import DateFormatter, DayLocator

from loadtest.bench.capacity_report import ACCENT, GREY, OTHERS, OURS, STYLE

HISTORY = Path("loadtest/bench/history.csv")
IMAGE = Path("docs/images/performance-history.png")
COLUMNS = 3
COLOURS = {"AVX2": ACCENT, "avx512_bf16": OURS, "AMX": OTHERS[0]}


@dataclass(frozen=True)
class Ratio:
    """title: as the plot says it. aim: what is wanted. at_most: whether less is better."""

    title: str
    aim: float
    at_most: bool = False


RATIOS = {
    "encode_served_over_best_bare": Ratio("encode served / bare", 0.80),
    "decode_served_over_best_bare": Ratio("decode served / bare", 0.80),
    "full_decode_served_over_bare": Ratio("full size served / bare", 0.99),
    **{
        f"default_over_best_peer_c{clients}": Ratio(f"images/s / best peer, {clients} callers", aim)
        for clients, aim in ((1, 1.0), (4, 1.0), (16, 1.15), (64, 1.15))
    },
    "lone_encode_p50_over_before": Ratio("lone encode p50 / before", 0.75, at_most=True),
    "generate_served_over_graph": Ratio("generate time / bare", 1.3, at_most=True),
    "generate_together_over_one": Ratio("4 sequences / 1, tokens/s", 2.5),
}


@dataclass(frozen=True)
class Entry:
    """A ratio that a benchmark measured on a day. machine: what its cores can do."""

    date: str
    machine: str
    figure: str
    value: float


def add(day: str, machine: str, figures: Mapping[str, object]) -> None:
    """Add the ratios among a run's figures, and replace those of the same day and machine."""
    added = [
        Entry(day, machine, name, round(value, 2))
        for name in RATIOS
        if isinstance(value := figures.get(name), float)
    ]
    replaced = {(one.date, one.machine, one.figure) for one in added}
    kept = [one for one in read(HISTORY) if (one.date, one.machine, one.figure) not in replaced]
    write(HISTORY, [*kept, *added])


def read(path: Path) -> list[Entry]:
    """All entries of a history."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [Entry(row["date"], row["machine"], row["figure"], float(row["value"])) for row in rows]


def write(path: Path, entries: list[Entry]) -> None:
    """Replace a history by these entries."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(Entry.__dataclass_fields__), lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(entry) for entry in entries)


def draw(entries: list[Entry], image: Path) -> None:
    """One small plot for each ratio: its values over days by machine, the newest as a number."""
    mpl.use("Agg")
    rows = -(-len(RATIOS) // COLUMNS)
    days = [date.fromisoformat(entry.date) for entry in entries]
    one_day = timedelta(days=1)
    with mpl.rc_context({**STYLE, "axes.titlesize": 8, "font.size": 7}):
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(8, 1.5 * rows))
        for axis in axes.flat[len(RATIOS) :]:
            axis.set_axis_off()
        for axis, (name, ratio) in zip(axes.flat, RATIOS.items(), strict=False):
            axis.set_title(f"{ratio.title} ({'<=' if ratio.at_most else '>='} {ratio.aim:g})")
            axis.axhline(ratio.aim, color=GREY, linestyle="--", linewidth=1)
            for machine, colour in COLOURS.items():
                values = {
                    day: entry.value
                    for day, entry in zip(days, entries, strict=True)
                    if (entry.figure, entry.machine) == (name, machine)
                }
                axis.plot(
                    values.keys(), values.values(), "o-", color=colour, markersize=3, label=machine
                )
                for day, value in list(values.items())[-1:]:
                    axis.annotate(
                        f"{value:.2f}",
                        (day, value),
                        xytext=(3, 3),
                        textcoords="offset points",
                        color=colour,
                    )
            axis.margins(y=0.4)
            axis.set_xlim(min(days) - one_day, max(days) + one_day)
            axis.xaxis.set_major_locator(DayLocator(interval=2))  # type: ignore[no-untyped-call]
            axis.xaxis.set_major_formatter(DateFormatter("%d %b"))  # type: ignore[no-untyped-call]
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower right", ncols=3)
        figure.savefig(image)
        plt.close(figure)
