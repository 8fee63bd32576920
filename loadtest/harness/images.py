"""Test images as JPEG bytes: the originals of docs/images, crops, scaled copies and squares."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

PATHS = sorted((Path(__file__).parents[2] / "docs/images").glob("*.jpg"))
CROPPED = next(path for path in PATHS if path.stem == "cat")


def originals() -> tuple[bytes, ...]:
    """The files of docs/images, unchanged."""
    return tuple(path.read_bytes() for path in PATHS)


def crops(count: int = 64, side: int = 256) -> list[bytes]:
    """`count` JPEGs of side x side pixels: random crops of one image, the same in each run."""
    image = Image.open(CROPPED)
    random = np.random.default_rng(0)
    corners = [[int(random.integers(0, size - side)) for size in image.size] for _ in range(count)]
    return [_jpeg(image.crop((x, y, x + side, y + side))) for x, y in corners]


def scaled(width: int) -> list[bytes]:
    """Every image of docs/images, scaled to `width` pixels."""
    images = [Image.open(path) for path in PATHS]
    return [_jpeg(_resize(image, width, image.height * width / image.width)) for image in images]


def squares(side: int, count: int = 8) -> list[bytes]:
    """`count` different JPEGs of side x side pixels: overlapping squares of one image, scaled."""
    image = Image.open(CROPPED)
    edge = min(image.size) - 8 * count
    corners = range(0, 8 * count, 8)
    return [_jpeg(_resize(image.crop((c, c, c + edge, c + edge)), side, side)) for c in corners]


def _resize(image: Image.Image, width: int, height: float) -> Image.Image:
    return image.resize((width, round(height)), Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
