"""Plot a training log: PSNR per budget, and vocabulary usage, against samples seen."""

import json
import math
from pathlib import Path

import matplotlib

from tokenizer.inference import budgets

matplotlib.use("Agg")
# Axis label of each family's Tokenizer.usage_name
USAGE_LABELS = {
    "live_bits": "bits that are 1 in 5 % to 95 % of images, %",
    "utilisation": "codebook entries used by 96 photos, %",
    "level_use": "effective share of levels, %",
}


def plot(log: Path, image: Path) -> None:
    """Draw `image` from `log`, a file with a JSON object per evaluation."""
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    samples = [row["views"] / 1000 for row in rows]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10, 4), width_ratios=(2, 1), layout="constrained"
    )
    for k in budgets(512):
        if f"psnr_{k}" in rows[-1]:
            left.plot(
                samples,
                [row.get(f"psnr_{k}", math.nan) for row in rows],
                marker=".",
                label=f"k = {k}",
            )
    left.set(
        xlabel="thousand training images seen",
        ylabel="PSNR, dB (96 validation photos)",
        title="Fidelity by budget",
    )
    left.legend(loc="lower right", ncols=3)
    usage, label = next((name, label) for name, label in USAGE_LABELS.items() if name in rows[-1])
    right.plot(samples, [100 * row[usage] for row in rows], marker=".", color="black")
    right.set(
        xlabel="thousand training images seen",
        ylabel=label,
        ylim=(0, 102),
        title=usage.replace("_", " ").capitalize(),
    )
    figure.savefig(image, dpi=120)
    pyplot.close(figure)
