"""Draw a grid of titled images as a file; shared by the commands that show a tokenizer's output."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

import imaging
from tokenizer import checkpoint
from tokenizer.evaluation.fidelity import Images
from tokenizer.models.base import Tokenizer

matplotlib.use("Agg")


@dataclass(frozen=True)
class Column:
    """A column of images uint8 [N, H, W, 3], each with a title."""

    titles: Sequence[str]
    images: Images


def read_arguments(prog: str, description: str | None) -> tuple[Tokenizer, Images, Path]:
    """Parse `WEIGHTS PHOTO... -o IMAGE`: the model, photos uint8 [N, S, S, 3], the output path."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    parser.add_argument("weights", type=Path, help="safetensors checkpoint")
    parser.add_argument("photos", type=Path, nargs="+", help="JPEG, PNG or WebP files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG or WebP to write")
    options = parser.parse_args()
    model = checkpoint.load(options.weights)
    return (
        model,
        np.stack(
            [imaging.prepare(path.read_bytes(), model.shape.image_size) for path in options.photos]
        ),
        options.output,
    )


def draw(columns: Sequence[Column], output: Path) -> None:
    """Write the columns side by side as a PNG or WebP file."""
    from matplotlib import pyplot

    rows = len(columns[0].images)
    figure, axes = pyplot.subplots(
        rows,
        len(columns),
        figsize=(2 * len(columns), 2.2 * rows),
        squeeze=False,
        layout="constrained",
    )
    for number, column in enumerate(columns):
        for axis, title, image in zip(axes[:, number], column.titles, column.images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.savefig(output, dpi=110)
    pyplot.close(figure)
