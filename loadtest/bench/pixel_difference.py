"""`make pixel-difference`: how far pixels of JPEGs are from those of an older commit.

Each photo, as a JPEG of quality 90 and 4:2:0, is prepared by both commits and encoded with the demo
tokenizer. Prints for the photos as they are, enlarged twice, and enlarged to 12 megapixels: PSNR
between the two commits' pixels; the share of the tokens' bits that differ; and the PSNR of what is
decoded from either commit's tokens against the older commit's pixels.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.triton import python_backend
from imaging.similarity import psnr
from loadtest.bench.images import BASELINE, PROGRAM, SIZE
from loadtest.harness import checkout
from loadtest.harness.bare_graph import CORES, REPOSITORY
from loadtest.harness.images import camera_jpeg
from loadtest.harness.service_process import ROOT
from service.engine.repository import engine_of, parse_config
from service.settings import Settings

HEAD = (
    "| photos | pixels | PSNR: mean, least | bits that differ | decoded: before | now |\n"
    "|---|---|---|---|---|---|"
)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.pixel_difference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of PNGs")
    parser.add_argument(
        "--baseline", metavar="COMMIT", default=BASELINE, help="the older commit (%(default)s)"
    )
    options = parser.parse_args()
    old = checkout.unpacked(options.baseline)
    photos = [Image.open(path).convert("RGB") for path in sorted(options.data.glob("*.png"))]
    if not photos:
        parser.error(f"{options.data} holds no PNG")
    print(f"{len(photos)} photos, {old.name} and the present code, PSNR in dB\n{HEAD}")
    pixels = photos[0].width * photos[0].height
    for label, scale in {
        "as they are": 1.0,
        "enlarged twice": 2.0,
        "12 megapixels": math.sqrt(12e6 / pixels),
    }.items():
        print(compare(photos, label, scale, old), flush=True)


def compare(photos: list[Image.Image], label: str, scale: float, old: Path) -> str:
    """A row of the table, for the photos enlarged by `scale`."""
    with tempfile.TemporaryDirectory() as folder:
        jpegs = Path(folder, "jpegs")
        jpegs.mkdir()
        for number, photo in enumerate(photos):
            size = round(scale * photo.width), round(scale * photo.height)
            enlarged = photo.resize(size, Image.Resampling.LANCZOS)
            (jpegs / f"{number:04}.jpg").write_bytes(camera_jpeg(enlarged))
        before, now = (prepared(commit, jpegs, Path(folder)) for commit in (old, ROOT))
    ids_before, ids_now = (_run("encode", pixels) for pixels in (before, now))
    differing = (ids_before ^ ids_now).astype(np.uint16).view(np.uint8)
    flipped = np.unpackbits(differing).mean()
    decoded = [psnr(before, _run("decode", ids)).mean() for ids in (ids_before, ids_now)]
    difference = psnr(before, now)
    width, height = (round(scale * side) for side in photos[0].size)
    return (
        f"| {label} | {width} x {height} | {difference.mean():.1f}, {difference.min():.1f} "
        f"| {flipped:.2%} | {decoded[0]:.2f} | {decoded[1]:.2f} |"
    )


def prepared(commit: Path, jpegs: Path, folder: Path) -> NDArray[np.uint8]:
    """uint8 [files, SIZE, SIZE, 3], as a commit's `imaging.prepare` makes them."""
    output = folder / "pixels.npy"
    checkout.run_with(commit, PROGRAM, "prepare", str(jpegs), str(output), str(SIZE), "0")
    pixels: NDArray[np.uint8] = np.load(output)
    return pixels


def _run(role: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Pixels to ids or ids to pixels, with the demo's graph on the service's engine."""
    (graph,) = REPOSITORY.glob(f"*_{role}*/1/model.onnx")
    engine = engine_of(parse_config(graph.parents[1]), Settings())
    inputs, _, run = python_backend.load(graph, *engine, CORES, 1)
    return np.concatenate([run({inputs[0]: rows[i : i + 1]})[0] for i in range(len(rows))])


if __name__ == "__main__":
    main()
