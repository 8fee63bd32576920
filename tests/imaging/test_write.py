"""Pixels to bytes and back."""

import io

import numpy as np
import pytest
from PIL import Image

import imaging
from tests.support.photographs import photograph

PIXELS = photograph("astronaut")[:100, 50:200]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_png_and_webp_lose_nothing(format: str) -> None:
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(imaging.encode_image(PIXELS, format))).convert("RGB")),
        PIXELS,
    )


def test_jpeg_loses_little_and_keeps_all_colour() -> None:
    image = Image.open(io.BytesIO(imaging.encode_image(PIXELS, "JPEG")))
    assert np.abs(np.asarray(image).astype(int) - PIXELS).mean() < 2
    assert {component[1:3] for component in image.layer} == {(1, 1)}  # 4:4:4


def test_what_is_rendered_is_what_its_media_type_says() -> None:
    for media_type, format in imaging.FORMATS.items():
        image = Image.open(io.BytesIO(imaging.encode_image(PIXELS, format)))
        assert (image.get_format_mimetype(), image.size) == (media_type, (150, 100))


def test_pixels_need_not_be_contiguous() -> None:
    for format in imaging.FORMATS.values():
        assert imaging.read_header(imaging.encode_image(PIXELS[:, ::-1], format)) == imaging.Header(
            format, 150, 100
        )


def test_an_unknown_format_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        imaging.encode_image(PIXELS, "GIF")
