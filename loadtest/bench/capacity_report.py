"""`make capacity-report`: plot the reports of capacity, cost, peers and soak into docs/images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from loadtest.peers.__main__ import OUR_BEST

BUILD = Path("build")
IMAGES = Path("docs/images")
OURS = "#0b5fa5"
SHADES = ("#9ecae1", "#4292c6", OURS)  # p50, p95, p99
ACCENT = "#d1495b"
GREY = "#6c757d"
OTHERS = ("#e07b39", "#5a9367", "#8d6a9f", "#b08900", "#c05780")
STAGES = {
    "graph": OURS,
    "engine processes beyond it": "#6baed6",
    "tritonserver": "#c6dbef",
    "gateway": "#e07b39",
    "clients": "#adb5bd",
}
BATCHES = {"1": "#c6dbef", "2": "#6baed6", "4": OURS, "8": "#e07b39", "more": ACCENT}

STYLE: dict[Any, Any] = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def main() -> None:
    """Draw a figure for each report that exists. SystemExit if there is none."""
    figures = draw(BUILD, IMAGES)
    if not figures:
        raise SystemExit(f"no report in {BUILD}; run make capacity cost bench-peers soak")
    print("\n".join(f"wrote {path}" for path in figures))


def draw(build: Path, images: Path) -> list[Path]:
    """Plot the reports in `build`; returns the PNG files written to `images`."""
    mpl.use("Agg")
    plots: dict[str, tuple[str, Callable[[dict[str, Any]], Figure]]] = {
        "clients": ("bench-peers", by_clients),
        "latency": ("capacity", by_rate),
        "batches": ("cost", batches),
        "cpu": ("cost", cpu),
        "soak": ("soak", soak),
    }
    written = []
    with mpl.rc_context(STYLE):
        for name, (measurement, plot) in plots.items():
            measured = build / f"{measurement}.json"
            if measured.exists():
                figure = plot(json.loads(measured.read_text()))
                written.append(images / f"capacity-{name}.png")
                figure.savefig(written[-1])
                plt.close(figure)
    return written


def by_clients(measured: dict[str, Any]) -> Figure:
    """Encode throughput against clients: the service, Triton without the gateway, and each peer."""
    figure, axes = plt.subplots(figsize=(7, 4))
    others = iter(OTHERS)
    for name, row in measured["cells"].items():
        clients = [load for load in row if load != "open"]
        rates = [row[load]["goodput"] for load in clients]
        ours, bare = name.startswith("ChannelTok"), name.startswith("Triton")
        color = ACCENT if name == OUR_BEST else OURS if ours else GREY if bare else next(others)
        line = "--" if bare or name.endswith("REST") else "-"
        axes.plot(
            range(len(clients)),
            rates,
            line,
            marker="o",
            markersize=4,
            color=color,
            linewidth=2 if ours else 1.3,
            label=name,
        )
    axes.set(
        xlabel="clients in a closed loop",
        ylabel="images/s",
        title="Encode, JPEG in, tokens out, on two shared cores",
        ylim=(0, None),
    )
    axes.set_xticks(range(len(clients)), clients)
    figure.legend(loc="outside right center")
    return figure


def by_rate(measured: dict[str, Any]) -> Figure:
    """Latency and goodput against arrival rate."""
    objective = measured["objective_seconds"]
    roles = [role for role in ("encode", "decode") if role in measured]
    figure, rows = plt.subplots(
        2, len(roles), figsize=(4 * len(roles) + 0.5, 6), sharex="col", squeeze=False
    )
    for role, (latency, goodput) in zip(roles, rows.T, strict=True):
        runs = sorted(
            measured[role]["runs"] + measured[role]["beyond"], key=lambda run: run["rate"]
        )
        rates = [run["rate"] for run in runs]
        capacity = measured[role]["capacity_per_second"]
        for percentile, color in zip(("p50", "p95", "p99"), SHADES, strict=True):
            latency.plot(
                rates,
                [1000 * run[percentile] for run in runs],
                marker="o",
                markersize=3,
                color=color,
                label=percentile,
            )
        latency.axhline(
            1000 * objective,
            color=ACCENT,
            linestyle="--",
            linewidth=1,
            label=f"p99 objective, {1000 * objective:.0f} ms",
        )
        latency.set(yscale="log", title=f"{role.capitalize()}: capacity {capacity:.0f} calls/s")
        latency.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        latency.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        latency.set_ylim(10, None)
        goodput.plot(rates, rates, color=GREY, linestyle=":", label="offered")
        goodput.plot(
            rates,
            [run["goodput"] for run in runs],
            marker="o",
            markersize=3,
            color=OURS,
            label="succeeded",
        )
        goodput.set(
            xlabel="calls/s, open loop",
            ylim=(0, 1.5 * max(run["goodput"] for run in runs)),
            xlim=(0, None),
        )
        for axes in (latency, goodput):
            axes.axvline(capacity, color="#333333", linewidth=0.8)
    rows[0, 0].set_ylabel("latency of successful calls, ms")
    rows[1, 0].set_ylabel("successful calls/s")
    rows[0, 0].legend(loc="lower right", fontsize=8)
    rows[1, 0].legend(loc="upper left", fontsize=8)
    return figure


def batches(measured: dict[str, Any]) -> Figure:
    """Share of images by batch size, against clients."""
    roles = list(measured["batches"])
    figure, row = plt.subplots(1, len(roles), figsize=(7, 3.2), sharey=True, squeeze=False)
    for axes, role in zip(row[0], roles, strict=True):
        loads = measured["batches"][role]
        bottom = [0.0] * len(loads)
        for name, color in BATCHES.items():
            shares = []
            for counts in loads.values():
                larger = sum(count for le, count in counts.items() if le not in BATCHES)
                images = larger if name == "more" else counts.get(name, 0)
                shares.append(100 * images / max(1, sum(counts.values())))
            label = {"4": "3 to 4", "8": "5 to 8", "more": "more"}.get(name, name)
            axes.bar(range(len(loads)), shares, bottom=bottom, color=color, label=label, width=0.65)
            bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
        axes.set(title=role.capitalize(), xlabel="clients in a closed loop")
        axes.set_xticks(range(len(loads)), list(loads))
        axes.grid(visible=False)
    row[0, 0].set_ylabel("share of images, %")
    handles, labels = row[0, 0].get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], title="images in\nthe batch", loc="outside right center"
    )
    return figure


def cpu(measured: dict[str, Any]) -> Figure:
    """Core time per image by stage, with 16 clients."""
    figure, axes = plt.subplots(figsize=(7, 2.3))
    roles = list(measured["cells"])
    for height, role in enumerate(roles[::-1]):
        cell = next(cell for cell in measured["cells"][role]["clients"] if cell["clients"] == 16)
        graph = measured["fits"][role]["graph"]
        spent = {
            **cell["cpu"],
            "graph": graph,
            "engine processes beyond it": cell["cpu"]["engine processes"] - graph,
        }
        left = 0.0
        for stage, color in STAGES.items():
            axes.barh(
                height,
                spent[stage],
                left=left,
                color=color,
                height=0.6,
                label=stage if height == 0 else None,
            )
            if spent[stage] > 0.04 * sum(cell["cpu"].values()):
                white = stage in ("graph", "gateway")
                axes.text(
                    left + spent[stage] / 2,
                    height,
                    f"{spent[stage]:.1f}",
                    ha="center",
                    va="center",
                    color="white" if white else "black",
                )
            left += spent[stage]
    axes.set_yticks(range(len(roles)), [role.capitalize() for role in roles[::-1]])
    axes.set(
        xlabel="core ms per image, 16 clients on the same cores",
        title="Where the processor time goes",
    )
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside right center")
    return figure


def soak(measured: dict[str, Any]) -> Figure:
    """Memory and latency per minute."""
    minutes = measured["minutes"]
    figure, (latency, memory) = plt.subplots(2, 1, figsize=(7, 4.2), sharex=True)
    for percentile, color in zip(("p50", "p99"), SHADES[1:], strict=True):
        latency.plot(
            [1000 * minute["run"][percentile] for minute in minutes],
            marker="o",
            markersize=3,
            color=color,
            label=percentile,
        )
    latency.set(
        ylabel="latency, ms",
        ylim=(0, None),
        title=f"Encode and Decode in turn at {measured['rate_per_second']:.0f} calls/s",
    )
    memory.plot(
        [minute["memory"] / 1e6 for minute in minutes],
        marker="o",
        markersize=3,
        color=OURS,
        label="memory",
    )
    memory.set(
        ylabel="memory, MB",
        ylim=(0, 1.2 * max(minute["memory"] for minute in minutes) / 1e6),
        xlabel="minute; the first is a warm-up" if measured["seconds"] == 60 else "interval",
    )
    memory.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    latency.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


if __name__ == "__main__":
    main()
