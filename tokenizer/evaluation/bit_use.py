"""Command `python -m tokenizer.evaluation.bit_use`: plot how evenly bits and ids are used."""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tokenizer import checkpoint, inference
from tokenizer.models.bsq import BITS, bit_frequencies, live_bits
from tokenizer.training.data import evaluation_photos

matplotlib.use("Agg")


def bit_entropy(tokens: Tensor) -> NDArray[np.float64]:
    """Sum of the entropies of each channel's 16 bits: int32 [N, C] to [C], in bits, at most 16."""
    share = bit_frequencies(tokens).clip(1e-12, 1 - 1e-12)
    return -(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum(1)


def id_entropy(tokens: Tensor) -> NDArray[np.float64]:
    """Entropy of each channel's ids over images: int32 [N, C] to [C], in bits, at most log2 N."""
    counts = [
        np.unique(channel, return_counts=True)[1] / len(channel) for channel in tokens.T.numpy()
    ]
    return np.array([-(share * np.log2(share)).sum() for share in counts])


def main() -> None:
    """Plot bit frequencies and the entropies of bits and ids over channels; print the dead bits."""
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(
        prog="python -m tokenizer.evaluation.bit_use", description=__doc__
    )
    parser.add_argument("weights", type=Path, help="safetensors checkpoint")
    parser.add_argument(
        "--data",
        required=True,
        help="photos: a folder of images or of .tar shards, one file, or a glob",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()

    model = checkpoint.load(options.weights)
    tokens = inference.encode(model, evaluation_photos(options.data, model.shape.image_size))
    photos, channels = tokens.shape
    share, live = bit_frequencies(tokens), live_bits(tokens)
    figure, (even, entropy) = pyplot.subplots(
        2, 1, figsize=(10, 6), sharex=True, layout="constrained", height_ratios=(1, 1.2)
    )
    image = even.imshow(
        share.T, aspect="auto", vmin=0, vmax=1, cmap="coolwarm", interpolation="nearest"
    )
    even.set(
        ylabel="bit (first = 15)",
        title=f"Share of {photos} photos in which a bit is 1; {100 * live:.2f} % of bits are live",
    )
    figure.colorbar(image, ax=even)
    entropy.plot(bit_entropy(tokens), label="16 bits, separately (at most 16)")
    entropy.plot(
        id_entropy(tokens), label=f"ids (at most {np.log2(photos):.2f}, all photos different)"
    )
    entropy.set(xlabel="channel", ylabel="entropy, bits", ylim=(0, 16.5))
    entropy.legend(loc="lower right")
    figure.savefig(options.output, dpi=110)
    dead = round((1 - live) * channels * BITS)
    print(
        f"{photos} photos: {dead} of {channels * BITS} bits are dead (1 in under 5 % or over 95 % "
        f"of photos); wrote {options.output}"
    )


if __name__ == "__main__":
    main()
