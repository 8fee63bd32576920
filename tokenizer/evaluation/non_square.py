"""Command `python -m tokenizer.evaluation.non_square`: crop against pad, and colours for padding.

Photos that are not square, and strips of them, pass through a tokenizer in both ways. Prints two
Markdown tables of mean PSNR and SSIM.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import imaging
from imaging.fit import content_box, view
from imaging.similarity import psnr, ssim
from tokenizer import checkpoint, inference
from tokenizer.models.base import Tokenizer

Pixels = NDArray[np.uint8]  # [H, W, 3]
Margins = list[tuple[int, int]]  # before and after, of rows, columns and colours

ASPECTS = ((3, 2), (2, 1), (3, 1))
BUDGETS = (32, 128, 256)
BITS_PER_TOKEN = 16


def _constant(value: int) -> Callable[[Pixels, Margins], Pixels]:
    return lambda content, margins: np.pad(content, margins, constant_values=value)


def _mean(content: Pixels, margins: Margins) -> Pixels:
    square = np.pad(content, margins)
    inside = np.pad(np.ones(content.shape[:2], bool), margins[:2])
    square[~inside] = content.mean(axis=(0, 1)).round().astype(np.uint8)
    return square


FILLS: dict[str, Callable[[Pixels, Margins], Pixels]] = {
    "white": _constant(255),
    "black": _constant(0),
    "mid-grey": _constant(128),
    "mean colour": _mean,
    "mirror": lambda content, margins: np.pad(content, margins, mode="symmetric"),
    "edge": lambda content, margins: np.pad(content, margins, mode="edge"),
}
FILL = "edge"  # that of imaging


def strips(photo: Image.Image, aspect: tuple[int, int]) -> Iterator[Image.Image]:
    """The largest centred parts of a photo with this aspect, lying and standing."""
    for width, height in (aspect, aspect[::-1]):
        scale = min(photo.width / width, photo.height / height)
        left = round(photo.width - width * scale) // 2
        top = round(photo.height - height * scale) // 2
        yield photo.crop((left, top, left + round(width * scale), top + round(height * scale)))


def padded(content: Pixels, size: int, fill: str) -> Pixels:
    """A square of `size` pixels with the content in the middle, between two bands of `fill`."""
    left, top, right, bottom = content_box(content.shape[1], content.shape[0], size)
    return FILLS[fill](content, [(top, size - bottom), (left, size - right), (0, 0)])


def seen_by_pad(strip: Image.Image, size: int) -> Pixels:
    """A strip in the resolution in which `pad` shows it, without the bands."""
    data = imaging.encode_image(np.asarray(strip), "PNG")
    return imaging.crop_to_aspect(imaging.prepare(data, size, fit="pad"), *strip.size)


def seen_by_crop(strip: Image.Image, size: int) -> Pixels:
    """All of a strip, in the resolution in which `crop` shows its centre."""
    scale = size / min(strip.size)
    sides = round(strip.width * scale), round(strip.height * scale)
    return np.asarray(strip.resize(sides, Image.Resampling.BICUBIC, reducing_gap=1.0))


def centre(pixels: Pixels) -> Pixels:
    """The centred square."""
    left, top, right, bottom = map(int, view(pixels.shape[1], pixels.shape[0], "crop").box)
    return pixels[top:bottom, left:right]


def quality(originals: list[Pixels], images: list[Pixels]) -> tuple[float, float]:
    """Mean PSNR in dB and mean SSIM. Each image is as large as its original."""
    pairs = [(a[None], b[None]) for a, b in zip(originals, images, strict=True)]
    return (
        float(np.mean([psnr(*pair) for pair in pairs])),
        float(np.mean([ssim(*pair) for pair in pairs])),
    )


def padded_quality(
    model: Tokenizer, contents: list[Pixels], fill: str
) -> Iterator[tuple[int, list[Pixels], tuple[float, float]]]:
    """For each budget: k, the contents decoded, their quality. The bands count for nothing."""
    size = model.shape.image_size
    tokens = inference.encode(model, np.stack([padded(c, size, fill) for c in contents]))
    for k in BUDGETS:
        decoded = [
            imaging.crop_to_aspect(image, content.shape[1], content.shape[0])
            for image, content in zip(inference.decode(model, tokens, k), contents, strict=True)
        ]
        yield k, decoded, quality(contents, decoded)


def compare_fills(model: Tokenizer, shapes: dict[str, list[Image.Image]]) -> Iterator[str]:
    """Rows of Markdown: the quality of the content with each fill."""
    yield f"| aspect | k | bits per pixel | {' | '.join(FILLS)} |"
    yield "|" + "---|" * (3 + len(FILLS))
    for name, images in shapes.items():
        contents = [seen_by_pad(image, model.shape.image_size) for image in images]
        pixels = np.mean([content.shape[0] * content.shape[1] for content in contents])
        by_fill = [padded_quality(model, contents, fill) for fill in FILLS]
        for columns in zip(*by_fill, strict=True):
            k = columns[0][0]
            cells = [f"{ratio:.2f} dB, {structure:.4f}" for _, _, (ratio, structure) in columns]
            bits = BITS_PER_TOKEN * k / pixels
            yield f"| {name} | {k} | {bits:.2f} | {' | '.join(cells)} |"


def compare_fits(
    model: Tokenizer, shapes: dict[str, list[Image.Image]], fill: str
) -> Iterator[str]:
    """Rows of Markdown: the quality of crop and of pad, of what each sees and in one resolution."""
    size = model.shape.image_size
    yield "| aspect | k | crop: the centre | pad: the centre | pad: what is seen | pad: the whole |"
    yield "|" + "---|" * 6
    for name, images in shapes.items():
        contents = [seen_by_pad(image, size) for image in images]
        wholes = [seen_by_crop(image, size) for image in images]
        centres = [centre(whole) for whole in wholes]
        tokens = inference.encode(model, np.stack(centres))
        for k, decoded, seen in padded_quality(model, contents, fill):
            enlarged = [
                np.asarray(
                    Image.fromarray(image).resize(
                        (whole.shape[1], whole.shape[0]), Image.Resampling.BICUBIC
                    )
                )
                for image, whole in zip(decoded, wholes, strict=True)
            ]
            measured = (
                quality(centres, list(inference.decode(model, tokens, k))),
                quality(centres, [centre(image) for image in enlarged]),
                seen,
                quality(wholes, enlarged),
            )
            cells = [f"{ratio:.2f} dB, {structure:.3f}" for ratio, structure in measured]
            yield f"| {name} | {k} | {' | '.join(cells)} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenizer.evaluation.non_square", description=__doc__
    )
    parser.add_argument("weights", type=Path, help="safetensors checkpoint")
    parser.add_argument("--data", required=True, type=Path, help="a folder of photos")
    options = parser.parse_args()
    model = checkpoint.load(options.weights)
    photos = [
        Image.open(path).convert("RGB") for path in sorted(options.data.iterdir()) if path.is_file()
    ]
    shapes = {
        f"{aspect[0]}:{aspect[1]}": [s for photo in photos for s in strips(photo, aspect)]
        for aspect in ASPECTS
    }
    for table in (compare_fills(model, shapes), [""], compare_fits(model, shapes, FILL)):
        for row in table:
            print(row, flush=True)


if __name__ == "__main__":
    main()
