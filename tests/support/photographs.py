"""Photographs for tests, from the scikit-image wheel, and any number of crops of them."""

import io
from functools import lru_cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from skimage import data

NAMES = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
)


@lru_cache
def photograph(name: str) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], 300 to 1400 pixels a side."""
    return np.asarray(getattr(data, name)())


@lru_cache
def jpeg(name: str = "chelsea", quality: int = 95) -> bytes:
    """A photograph as JPEG."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(photograph(name)), quality=quality)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """Any image in any of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@lru_cache
def crops(count: int, seed: int = 0) -> tuple[bytes, ...]:
    """`count` different JPEGs: crops of the photographs, 128 to 300 pixels, of various shapes."""
    random = np.random.default_rng(seed)
    images = []
    for i in range(count):
        photo = photograph(NAMES[i % len(NAMES)])
        height, width = random.integers(128, 300, 2)
        top, left = (
            random.integers(0, photo.shape[0] - height),
            random.integers(0, photo.shape[1] - width),
        )
        crop = np.ascontiguousarray(photo[top : top + height, left : left + width])
        images.append(simplejpeg.encode_jpeg(crop, quality=int(random.integers(70, 98))))
    return tuple(images)
