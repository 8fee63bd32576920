"""Decoding takes no more memory than ImageFile.memory says, for every kind of image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imaging
from tests.support.images.decoding import SLACK, measure
from tests.support.photographs import encoded, photograph

WIDTH, HEIGHT = 2400, 1600


def image(mode: str) -> Image.Image:
    photo = Image.fromarray(photograph("coffee")).resize((WIDTH, HEIGHT))
    if mode == "I;16":
        return Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        opaque = photo.convert(mode.removesuffix("A"))
        opaque.putalpha(photo.convert("L"))
        return opaque
    return photo.quantize(64) if mode == "P" else photo.convert(mode)


def pixels() -> imaging.Pixels:
    return imaging.Pixels(WIDTH, HEIGHT, image("RGB").tobytes())


def kind(format: str, mode: str, **options: Any) -> Callable[[], bytes | imaging.Pixels]:
    if format == "PNG":
        options["compress_level"] = 1
    return lambda: encoded(image(mode), format, **options)


KINDS = {
    "JPEG grey": kind("JPEG", "L"),
    "JPEG 4:2:0": kind("JPEG", "RGB"),
    "JPEG 4:4:4": kind("JPEG", "RGB", subsampling=0),
    "JPEG CMYK": kind("JPEG", "CMYK"),
    "JPEG progressive grey": kind("JPEG", "L", progressive=True),
    "JPEG progressive 4:2:0": kind("JPEG", "RGB", progressive=True),
    "JPEG progressive 4:4:4": kind("JPEG", "RGB", progressive=True, subsampling=0),
    "JPEG progressive CMYK": kind("JPEG", "CMYK", progressive=True),
    "pixels": pixels,
    "PNG bilevel": kind("PNG", "1"),
    "PNG grey": kind("PNG", "L"),
    "PNG grey tRNS": kind("PNG", "L", transparency=3),
    "PNG grey 16": kind("PNG", "I;16"),
    "PNG grey alpha": kind("PNG", "LA"),
    "PNG palette": kind("PNG", "P"),
    "PNG palette tRNS": kind("PNG", "P", transparency=3),
    "PNG RGB": kind("PNG", "RGB"),
    "PNG RGB tRNS": kind("PNG", "RGB", transparency=(1, 2, 3)),
    "PNG RGBA": kind("PNG", "RGBA"),
    "WebP lossy": kind("WEBP", "RGB", method=0),
    "WebP lossy alpha": kind("WEBP", "RGBA", method=0),
    "WebP lossless": kind("WEBP", "RGB", lossless=True, method=0, quality=0),
    "WebP lossless alpha": kind("WEBP", "RGBA", lossless=True, method=0, quality=0),
}


@pytest.mark.parametrize("size", [128, 1024])
@pytest.mark.parametrize("name", KINDS)
def test_memory_is_an_upper_bound_for_every_kind(name: str, size: int) -> None:
    measured = measure(KINDS[name], size)
    assert not measured.error
    assert measured.taken < measured.announced + SLACK


def test_memory_does_not_grow_with_a_photo_that_is_decoded_smaller() -> None:
    small, large = (
        imaging.open_image(encoded(image("RGB").resize(size), "JPEG")).memory(128)
        for size in ((1200, 800), (4800, 3200))
    )
    assert large < 2 * small
