"""Command `python -m tokenizer.evaluation.channel_swap`: figure of two images' channels, mixed."""

import numpy as np
import torch

from tokenizer import inference
from tokenizer.evaluation import image_grid


def main() -> None:
    """Draw a row per photo A and its successor B (cyclic): A, A decoded, mixtures, B decoded.

    A mixture has the first s channels of A and the others of B.
    """
    model, photos, output = image_grid.read_arguments("tokenizer.evaluation.channel_swap", __doc__)
    channels = model.shape.channels
    tokens = inference.encode(model, photos)
    following = tokens.roll(-1, dims=0)
    decoded = inference.decode(model, tokens, channels)
    columns = [("photo A", photos), (f"A, k = {channels}", decoded)]
    for s in (channels // 2, channels // 4, channels // 8):
        mixed = torch.cat([tokens[:, :s], following[:, s:]], dim=1)
        columns.append((f"{s} of A, {channels - s} of B", inference.decode(model, mixed, channels)))
    columns.append((f"B, k = {channels}", np.roll(decoded, -1, axis=0)))
    image_grid.draw(
        [image_grid.Column([title] * len(photos), images) for title, images in columns], output
    )


if __name__ == "__main__":
    main()
