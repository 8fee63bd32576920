"""`python -m tokenizer.evaluation.adaptive_length WEIGHTS --data PHOTOS -o IMAGE`: what it saves to choose k for each photo and not once for all."""

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
PRICES = np.geomspace(1e-4, 1e-2, 25)  # SSIM a token must bring
FLOORS = np.arange(0.1, 0.9, 0.05)
BYTES_PER_TOKEN = 2

Curves = list[list[QualityPoint]]  # of each photo, by ascending k


def curves(model: Tokenizer, photos: NDArray[np.uint8]) -> Curves:
    """What each photo is like at every k that `Quality` tries, and at every eighth one, so that fixed k is not judged by straight lines."""
    channels = model.shape.channels
    tried = Quality(max_bytes=BYTES_PER_TOKEN * channels).budgets(channels)
    tokens = inference.encode(model, photos)
    rows: Curves = [[] for _ in photos]
    for k in tqdm(sorted({*tried, *range(8, channels, 8)}), unit="budget", disable=None):
        decoded = inference.decode(model, tokens, k)
        for row, likeness, ratio in zip(
            rows, ssim(photos, decoded), psnr(photos, decoded), strict=True
        ):
            row.append(QualityPoint(k, float(likeness), float(ratio)))
    return rows


def chosen(rows: Curves, quality: Quality, channels: int) -> tuple[float, float]:
    """Mean bytes and mean SSIM when each photo has the k that `quality` chooses among those it tries."""
    tried = set(quality.budgets(channels))
    picked = [quality.choose([one for one in row if one.k in tried]) for row in rows]
    return BYTES_PER_TOKEN * float(np.mean([one.k for one in picked])), float(
        np.mean([one.ssim for one in picked])
    )


def fixed(rows: Curves) -> tuple[list[int], list[float]]:
    """Bytes, and mean SSIM when all photos have as many."""
    by_k = list(zip(*rows, strict=True))
    return [BYTES_PER_TOKEN * ones[0].k for ones in by_k], [
        float(np.mean([one.ssim for one in ones])) for ones in by_k
    ]


def main() -> None:
    """Mean SSIM against mean bytes: fixed k, by price, by floor; and what the price saves at the mean SSIM of some fixed k."""
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
    parser.add_argument("--photos", type=int, help="only the first so many")
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
    axes.plot(*zip(*by_price, strict=True), marker=".", label="k by photo: ssim_per_token")
    axes.plot(fixed_bytes, fixed_ssim, color="black", label="the same k for all")
    axes.plot(
        *zip(*by_floor, strict=True),
        marker=".",
        linestyle=":",
        label="k by photo: ssim=, a floor under each",
    )
    axes.set(
        xlabel="bytes of ids per photo, mean",
        ylabel="SSIM, mean",
        xscale="log",
        title=f"{len(rows)} photos",
    )
    axes.minorticks_off()
    axes.set_xticks(ticks := [16, 32, 64, 128, 256, 512], [str(tick) for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(options.output, dpi=110)
    print(
        "| k for all | bytes | SSIM | bytes by ssim_per_token at the same SSIM | saved |\n|---|---|---|---|---|"
    )
    price_bytes, price_ssim = zip(*by_price, strict=True)
    for size, likeness in zip(fixed_bytes, fixed_ssim, strict=True):
        if size in ticks and price_ssim[0] <= likeness <= price_ssim[-1]:
            same = float(np.interp(likeness, price_ssim, price_bytes))
            print(
                f"| {size // BYTES_PER_TOKEN} | {size} | {likeness:.4f} | {same:.0f} | {1 - same / size:.1%} |"
            )


if __name__ == "__main__":
    main()
