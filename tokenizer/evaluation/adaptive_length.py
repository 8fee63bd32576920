"""Command `python -m tokenizer.evaluation.adaptive_length`: bytes saved by choosing k per image.

Plots mean SSIM against mean bytes, for k chosen per image by quality and for the same k for all.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from channeltok import Quality, QualityPoint
from numpy.typing import NDArray
from tqdm import tqdm

from imaging.similarity import psnr, ssim
from tokenizer import checkpoint, inference
from tokenizer.models.base import Tokenizer
from tokenizer.training.data import evaluation_photos

matplotlib.use("Agg")
PRICES = np.geomspace(1e-4, 1e-2, 25)  # minimal SSIM gain per token
FLOORS = np.arange(0.1, 0.9, 0.05)  # minimal SSIM of each image
BYTES_PER_TOKEN = 2

Curves = list[list[QualityPoint]]  # of each image, by ascending k


def curves(model: Tokenizer, photos: NDArray[np.uint8]) -> Curves:
    """Quality of each image at every k that `Quality` tries, and at every eighth k.

    The latter make the curve of a fixed k exact. photos: uint8 [N, S, S, 3].
    """
    channels = model.shape.channels
    tried = Quality(max_bytes=BYTES_PER_TOKEN * channels).budgets(channels)
    tokens = inference.encode(model, photos)
    rows: Curves = [[] for _ in photos]
    for k in tqdm(sorted({*tried, *range(8, channels, 8)}), unit="budget", disable=None):
        decoded = inference.decode(model, tokens, k)
        for row, similarity, ratio in zip(
            rows, ssim(photos, decoded), psnr(photos, decoded), strict=True
        ):
            row.append(QualityPoint(k, float(similarity), float(ratio)))
    return rows


def chosen(rows: Curves, quality: Quality, channels: int) -> tuple[float, float]:
    """Mean bytes and mean SSIM when `quality` chooses k for each image."""
    tried = set(quality.budgets(channels))
    picked = [quality.choose([point for point in row if point.k in tried]) for row in rows]
    mean_k = float(np.mean([point.k for point in picked]))
    return BYTES_PER_TOKEN * mean_k, float(np.mean([point.ssim for point in picked]))


def fixed(rows: Curves) -> tuple[list[int], list[float]]:
    """Bytes and mean SSIM at each k, the same for all images."""
    by_k = list(zip(*rows, strict=True))
    sizes = [BYTES_PER_TOKEN * points[0].k for points in by_k]
    return sizes, [float(np.mean([point.ssim for point in points])) for points in by_k]


def main() -> None:
    """Draw the plot; print the bytes that ssim_per_token saves at the mean SSIM of fixed k."""
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(
        prog="python -m tokenizer.evaluation.adaptive_length", description=__doc__
    )
    parser.add_argument("weights", type=Path, help="safetensors checkpoint")
    parser.add_argument(
        "--data",
        required=True,
        help="photos: a folder of images or of .tar shards, one file, or a glob",
    )
    parser.add_argument("--photos", type=int, help="evaluate only the first PHOTOS of them")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()

    model = checkpoint.load(options.weights)
    channels = model.shape.channels
    rows = curves(model, evaluation_photos(options.data, model.shape.image_size, options.photos))
    fixed_bytes, fixed_ssim = fixed(rows)
    by_price = sorted(
        {chosen(rows, Quality(ssim_per_token=float(price)), channels) for price in PRICES}
    )
    by_floor = sorted({chosen(rows, Quality(ssim=float(floor)), channels) for floor in FLOORS})
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    axes.plot(*zip(*by_price, strict=True), marker=".", label="k per photo: ssim_per_token")
    axes.plot(fixed_bytes, fixed_ssim, color="black", label="same k for all")
    axes.plot(
        *zip(*by_floor, strict=True),
        marker=".",
        linestyle=":",
        label="k per photo: ssim, a minimum for each",
    )
    axes.set(
        xlabel="mean bytes of token ids per photo",
        ylabel="mean SSIM",
        xscale="log",
        title=f"{len(rows)} photos",
    )
    axes.minorticks_off()
    axes.set_xticks(ticks := [16, 32, 64, 128, 256, 512], [str(tick) for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(options.output, dpi=110)
    print(
        "| fixed k | bytes | SSIM | bytes with ssim_per_token at the same SSIM | saved |\n"
        "|---|---|---|---|---|"
    )
    price_bytes, price_ssim = zip(*by_price, strict=True)
    for size, similarity in zip(fixed_bytes, fixed_ssim, strict=True):
        if size in ticks and price_ssim[0] <= similarity <= price_ssim[-1]:
            same = float(np.interp(similarity, price_ssim, price_bytes))
            print(
                f"| {size // BYTES_PER_TOKEN} | {size} | {similarity:.4f} | {same:.0f} "
                f"| {1 - same / size:.1%} |"
            )


if __name__ == "__main__":
    main()
