"""`python -m tokenizer.channel_swap WEIGHTS PHOTO PHOTO... -o PICTURE`: the first s channels of one photo, the rest of another."""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch

import pictures
from tokenizer import checkpoint, inference

matplotlib.use("Agg")


def main() -> None:
    """One row for each photo and its successor (the last one's is the first): the photo, the mixtures at growing s, the other photo."""
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(prog="python -m tokenizer.channel_swap", description=__doc__)
    parser.add_argument("weights", type=Path, help="safetensors checkpoint")
    parser.add_argument("photos", type=Path, nargs="+", help="two or more JPEG, PNG or WebP files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    if len(options.photos) < 2:
        parser.error("two or more photos are needed")

    model = checkpoint.load(options.weights)
    photos = np.stack([pictures.prepare(path.read_bytes(), model.shape.picture_size) for path in options.photos])
    channels = model.shape.channels
    tokens = inference.encode(model, photos)
    others = tokens.roll(-1, dims=0)
    heads = [channels // 8, channels // 4, channels // 2]
    mixed = [inference.decode(model, torch.cat([tokens[:, :s], others[:, s:]], dim=1), channels) for s in heads]
    decoded = inference.decode(model, tokens, channels)
    columns = [
        ("photo A", photos),
        (f"A, k = {channels}", decoded),
        *((f"{s} of A, {channels - s} of B", mix) for s, mix in zip(heads[::-1], mixed[::-1], strict=True)),
        (f"B, k = {channels}", np.roll(decoded, -1, axis=0)),
    ]
    figure, axes = pyplot.subplots(
        len(photos), len(columns), figsize=(2 * len(columns), 2.2 * len(photos)), squeeze=False, layout="constrained"
    )
    for column, (title, images) in enumerate(columns):
        for row, image in enumerate(images):
            axes[row, column].imshow(image, interpolation="nearest")
            axes[row, column].set_title(title, fontsize=9)
            axes[row, column].axis("off")
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
