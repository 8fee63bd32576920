"""Encoding of pixels as JPEG, PNG and WebP."""

import io

import numpy as np
import pytest
from PIL import Image

import imaging
from tests.support.photographs import photograph

PIXELS = photograph("astronaut")[:100, 50:200]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_encode_image_png_and_webp_are_lossless(format: str) -> None:
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(imaging.encode_image(PIXELS, format))).convert("RGB")),
        PIXELS,
    )


def test_encode_image_jpeg_is_close_and_keeps_full_chroma() -> None:
    image = Image.open(io.BytesIO(imaging.encode_image(PIXELS, "JPEG")))
    assert np.abs(np.asarray(image).astype(int) - PIXELS).mean() < 2
    assert {component[1:3] for component in image.layer} == {(1, 1)}  # 4:4:4


def test_encode_image_writes_the_format_of_the_media_type() -> None:
    for media_type, format in imaging.FORMATS.items():
        image = Image.open(io.BytesIO(imaging.encode_image(PIXELS, format)))
        assert (image.get_format_mimetype(), image.size) == (media_type, (150, 100))


def test_encode_image_accepts_non_contiguous_pixels() -> None:
    for format in imaging.FORMATS.values():
        file = imaging.open_image(imaging.encode_image(PIXELS[:, ::-1], format))
        assert (file.format, file.width, file.height) == (format, 150, 100)


def test_encode_image_raises_key_error_for_an_unknown_format() -> None:
    with pytest.raises(KeyError):
        imaging.encode_image(PIXELS, "GIF")
