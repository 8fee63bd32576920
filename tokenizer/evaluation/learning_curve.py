"""The image of a run: PSNR by budget, and the share of live bits, against photos seen."""

import json
import math
from pathlib import Path

import matplotlib

from tokenizer.inference import budgets

matplotlib.use("Agg")
# Tokenizer.usage_name of each family, and what it is
USES = {
    "live_bits": "bits used between 5 % and 95 %, %",
    "utilisation": "entries used by 96 photos, %",
    "level_use": "levels in even use, %",
}


def plot(log: Path, image: Path) -> None:
    """Draw `image` from `log`, a file of one JSON object for each evaluation."""
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    views = [row["views"] / 1000 for row in rows]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10, 4), width_ratios=(2, 1), layout="constrained"
    )
    for k in budgets(512):
        if f"psnr_{k}" in rows[-1]:
            left.plot(
                views,
                [row.get(f"psnr_{k}", math.nan) for row in rows],
                marker=".",
                label=f"k = {k}",
            )
    left.set(
        xlabel="thousand photos seen",
        ylabel="PSNR, dB (96 validation photos)",
        title="Fidelity by budget",
    )
    left.legend(loc="lower right", ncols=3)
    use, label = next((name, label) for name, label in USES.items() if name in rows[-1])
    right.plot(views, [100 * row[use] for row in rows], marker=".", color="black")
    right.set(
        xlabel="thousand photos seen",
        ylabel=label,
        ylim=(0, 102),
        title=use.replace("_", " ").capitalize(),
    )
    figure.savefig(image, dpi=120)
    pyplot.close(figure)
