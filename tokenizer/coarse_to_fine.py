"""`python -m tokenizer.coarse_to_fine WEIGHTS PHOTO... -o PICTURE`: the same photos at growing k, beside the original."""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

import pictures
from tokenizer import checkpoint, fidelity, inference

matplotlib.use("Agg")


def main() -> None:
    """One row for each photo: k = 8, 16, 32 and so on, with their bytes and PSNR, then what the tokenizer saw."""
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(prog="python -m tokenizer.coarse_to_fine", description=__doc__)
    parser.add_argument("weights", type=Path, help="weights.safetensors of a training run")
    parser.add_argument("photos", type=Path, nargs="+", help="JPEG, PNG or WebP files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()

    model = checkpoint.load(options.weights)
    photos = np.stack([pictures.prepare(path.read_bytes(), model.shape.picture_size) for path in options.photos])
    tokens = inference.encode(model, photos)
    budgets = inference.budgets(model.shape.channels)
    columns = [inference.decode(model, tokens, k) for k in budgets]
    figure, axes = pyplot.subplots(
        len(photos), len(budgets) + 1, figsize=(2 * (len(budgets) + 1), 2.2 * len(photos)), squeeze=False, layout="constrained"
    )
    for row, photo in enumerate(photos):
        for column, k in enumerate(budgets):
            axes[row, column].imshow(columns[column][row], interpolation="nearest")
            decibels = fidelity.psnr(photo[None], columns[column][row][None])[0]
            axes[row, column].set_title(f"k = {k}, {2 * k} bytes\n{decibels:.1f} dB", fontsize=9)
        axes[row, -1].imshow(photo, interpolation="nearest")
        axes[row, -1].set_title("original", fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
