"""Test images: the originals of docs/images, crops, scaled copies, squares and camera photos."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PATHS = sorted((Path(__file__).parents[2] / "docs/images").glob("*.jpg"))
SENSOR_NOISE = 6  # standard deviation; a 12-megapixel JPEG then has 3.4 MB, as from a phone
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


def camera_photos(width: int, height: int, count: int = 4) -> list[Image.Image]:
    """`count` different photos as a camera takes them: docs/images enlarged, with sensor noise.

    Enlarging leaves no detail of the size of a pixel; without noise such a JPEG would be a quarter
    as large as a camera's, and its entropy coding as much faster.
    """
    random = np.random.default_rng(0)
    photos = []
    for i in range(count):
        image = ImageOps.fit(
            Image.open(PATHS[i % len(PATHS)]), (width, height), Image.Resampling.LANCZOS
        )
        noise = SENSOR_NOISE * random.standard_normal((height, width, 1), np.float32)
        noisy = np.clip(np.asarray(image, np.float32) + noise, 0, 255)
        photos.append(Image.fromarray(noisy.astype(np.uint8)))
    return photos


def camera_jpeg(photo: Image.Image) -> bytes:
    """As cameras write it: quality 90, 4:2:0."""
    return encoded(photo, "JPEG", quality=90, subsampling="4:2:0")


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """Any image in one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _resize(image: Image.Image, width: int, height: float) -> Image.Image:
    return image.resize((width, round(height)), Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image) -> bytes:
    return encoded(image, "JPEG", quality=90)
