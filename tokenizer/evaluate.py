"""Command `python -m tokenizer.evaluate CHECKPOINT --data PHOTOS`: measure a tokenizer's quality.

Per k: PSNR, SSIM, a perceptual distance of a network that no loss has seen, L1 (the training loss),
the decoder's grid, and a Frechet distance with its floor. --codecs adds JPEG, WebP and AVIF at the
same bytes; --codecs-from takes them from an earlier report of the same photos. Writes a table, JSON
and a plot.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from tokenizer import checkpoint, inference
from tokenizer.evaluation import codecs, efficientnet_distance
from tokenizer.evaluation.fidelity import Images, grid_energy, l1, psnr, ssim
from tokenizer.models.base import Tokenizer
from tokenizer.training.data import evaluation_photos

matplotlib.use("Agg")
CODEC_SIZES = (64, 128, 256, 512, 1024)
# With fewer, the halves are smaller than twice the number of features, and the figure is noise.
FRECHET_PHOTOS = 400
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "distance": False}


@dataclass(frozen=True)
class Row:
    """One line of the table: means over all photos. None: not measurable here.

    size: bytes per image. distance, frechet: see efficientnet_distance. grid: see
    fidelity.grid_energy. kept: share of photos that the codec can store in `size` bytes; below 1,
    the other figures are None.
    """

    method: str
    k: int | None
    size: int
    psnr: float | None = None
    ssim: float | None = None
    distance: float | None = None
    l1: float | None = None
    grid: float | None = None
    frechet: float | None = None
    kept: float = 1.0

    @property
    def bits(self) -> int:
        """Bits per image."""
        return 8 * self.size


@dataclass(frozen=True)
class Report:
    """Results of one checkpoint on one set of photos.

    usage, usage_name: see tokenizer.models.base.Tokenizer. photo_grid, frechet_floor: values of the
    original photos; frechet_floor is None for few photos.
    """

    checkpoint: str
    fingerprint: str
    data: str
    photos: int
    usage: float
    photo_grid: float
    frechet_floor: float | None
    rows: list[Row]
    usage_name: str = "live_bits"


def evaluate_tokenizer(model: Tokenizer, photos: Images) -> tuple[list[Row], float | None, float]:
    """A row per budget, the floor of the Frechet distance, and the usage of the vocabulary.

    photos: uint8 [N, S, S, 3].
    """
    tokens = inference.encode(model, photos)
    budgets = inference.budgets(model.shape.channels)
    decoded = [inference.decode(model, tokens, k) for k in budgets]
    distances, pooled = efficientnet_distance.measure(photos, decoded)
    enough = len(photos) >= FRECHET_PHOTOS
    floor, *frechet = [
        efficientnet_distance.frechet_of_halves(pooled[0], version) if enough else None
        for version in pooled
    ]
    rows = [
        Row(
            model.title,
            k,
            k * model.bits_per_token // 8,
            psnr=float(psnr(photos, images).mean()),
            ssim=float(ssim(photos, images).mean()),
            distance=float(distances[i].mean()),
            l1=float(l1(photos, images).mean()),
            grid=grid_energy(images, model.shape.decoder_stride),
            frechet=frechet[i],
        )
        for i, (k, images) in enumerate(zip(budgets, decoded, strict=True))
    ]
    return rows, floor, model.usage(tokens)


def evaluate_codec(codec: str, photos: Images) -> Iterator[Row]:
    """A row for each of CODEC_SIZES.

    Each metric takes the best scale for each photo: the strongest possible baseline.
    """
    # Threads suffice: codecs release the GIL.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        saved = list(pool.map(lambda photo: codecs.candidates(photo, codec, CODEC_SIZES), photos))
    for size in CODEC_SIZES:
        kept = sum(bool(by_size[size]) for by_size in saved) / len(photos)
        if kept < 1:
            yield Row(codec, None, size, kept=kept)
            continue
        versions = [np.stack([candidate.image for candidate in by_size[size]]) for by_size in saved]
        originals = [
            np.repeat(photo[None], len(version), axis=0)
            for photo, version in zip(photos, versions, strict=True)
        ]
        yield Row(
            codec,
            None,
            size,
            psnr=_mean(max, [psnr(a, b) for a, b in zip(originals, versions, strict=True)]),
            ssim=_mean(max, [ssim(a, b) for a, b in zip(originals, versions, strict=True)]),
            distance=_mean(
                min,
                [
                    efficientnet_distance.distances(a, b)
                    for a, b in zip(photos, versions, strict=True)
                ],
            ),
            l1=_mean(min, [l1(a, b) for a, b in zip(originals, versions, strict=True)]),
        )


def codec_rows(folder: Path, data: str, photos: int) -> list[Row]:
    """The codecs' rows of the report in `folder`.

    Raises ValueError when it is not of `photos` photos of `data`.
    """
    report = json.loads((folder / "report.json").read_text())
    if (report["data"], report["photos"]) != (data, photos):
        raise ValueError(
            f"{folder} is a report of {report['photos']} photos of {report['data']}, not of "
            f"{photos} of {data}"
        )
    return [Row(**row) for row in report["rows"] if row["k"] is None]


def _mean(
    best: Callable[[NDArray[np.float64]], float], per_photo: list[NDArray[np.float64]]
) -> float:
    return float(np.mean([best(values) for values in per_photo]))


def table(report: Report) -> str:
    """The report as a Markdown table. The best value among all methods of a size is bold."""
    columns = ("PSNR, dB", "SSIM", "distance", "L1 (the loss)", "grid", "Frechet")
    usage = f"{100 * report.usage:.2f} % {report.usage_name.replace('_', ' ')}"
    lines = [
        f"{report.photos} photos of `{report.data}`; tokenizer `{report.fingerprint}`; {usage}. ",
        f"The originals: grid {report.photo_grid:.2f}, "
        f"Frechet floor {_figure(report.frechet_floor, 2) or 'not measured, too few photos'}.",
        "",
        "| method | k | bytes | bits | " + " | ".join(columns) + " |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for row in sorted(report.rows, key=lambda row: (row.size, row.method)):
        head = [row.method, "" if row.k is None else str(row.k), f"{row.size:,}", f"{row.bits:,}"]
        if row.kept < 1:
            lines.append(
                "| "
                + " | ".join(
                    [*head, f"{100 * row.kept:.0f} % of photos fit", *[""] * (len(columns) - 1)]
                )
                + " |"
            )
            continue
        scores = [
            _score(report, row, name, digits)
            for name, digits in (("psnr", 2), ("ssim", 3), ("distance", 2))
        ]
        lines.append(
            "| "
            + " | ".join(
                [*head, *scores, _figure(row.l1, 4), _figure(row.grid, 2), _figure(row.frechet, 2)]
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


def _score(report: Report, row: Row, name: str, digits: int) -> str:
    candidates = [
        value
        for other in report.rows
        if other.size == row.size and (value := getattr(other, name)) is not None
    ]
    value = getattr(row, name)
    best = (max if HIGHER_IS_BETTER[name] else min)(candidates)
    return (
        f"**{value:.{digits}f}**"
        if value == best and len(candidates) > 1
        else _figure(value, digits)
    )


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def plot(report: Report, path: Path) -> None:
    """Plot quality against bytes, one panel per metric."""
    from matplotlib import pyplot

    labels = {
        "psnr": "PSNR, dB (higher is better)",
        "ssim": "SSIM (higher is better)",
        "distance": "EfficientNet distance (lower is better)",
    }
    figure, axes = pyplot.subplots(1, len(labels), figsize=(13, 4), layout="constrained")
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        for method in dict.fromkeys(row.method for row in report.rows):
            points = [
                (row.size, value)
                for row in report.rows
                if row.method == method and (value := getattr(row, name)) is not None
            ]
            if points:
                axis.plot(
                    *zip(*sorted(points), strict=True),
                    marker="o",
                    linewidth=2.5 if method == report.rows[0].method else 1.2,
                    label=method,
                )
        axis.set_xscale("log", base=2)
        axis.set(xlabel="bytes per image", title=label)
        axis.set_xticks(
            sizes := sorted({row.size for row in report.rows}), [str(size) for size in sizes]
        )
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(f"{report.photos} photos of {report.data}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Evaluate one checkpoint on one set of photos; write report.json, report.md and report.png."""
    parser = argparse.ArgumentParser(prog="python -m tokenizer.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="safetensors checkpoint")
    parser.add_argument(
        "--data",
        required=True,
        help="photos: a folder of images or of .tar shards, one file, or a glob",
    )
    parser.add_argument("--photos", type=int, help="evaluate only the first PHOTOS of them")
    baselines = parser.add_mutually_exclusive_group()
    baselines.add_argument(
        "--codecs",
        action="store_true",
        help="also evaluate JPEG, WebP and AVIF: some seconds per photo",
    )
    baselines.add_argument(
        "--codecs-from",
        type=Path,
        metavar="FOLDER",
        help="take the codecs' figures from this report of the same photos and size",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("build/evaluate"),
        help="folder for report.json, report.md, report.png",
    )
    options = parser.parse_args()

    model = checkpoint.load(options.checkpoint)
    photos = evaluation_photos(options.data, model.shape.image_size, options.photos)
    rows, floor, usage = evaluate_tokenizer(model, photos)
    if options.codecs:
        rows += [row for codec in codecs.CODECS for row in evaluate_codec(codec, photos)]
    if options.codecs_from:
        rows += codec_rows(options.codecs_from, Path(options.data).name, len(photos))
    report = Report(
        checkpoint=options.checkpoint.name,
        fingerprint=checkpoint.fingerprint(model),
        data=Path(options.data).name,
        photos=len(photos),
        usage_name=model.usage_name,
        usage=usage,
        photo_grid=grid_energy(photos, model.shape.decoder_stride),
        frechet_floor=floor,
        rows=rows,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    (options.output / "report.md").write_text(table(report))
    plot(report, options.output / "report.png")
    print(table(report))


if __name__ == "__main__":
    main()
