"""Pixels without a file format: what a PNG of them is, without its cost."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import imaging
from tests.support.photographs import encoded, photograph


def photo(width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(photograph("chelsea")).resize((width, height)))


def pixels_of(array: NDArray[np.uint8]) -> imaging.Pixels:
    return imaging.Pixels(array.shape[1], array.shape[0], array.tobytes())


@pytest.mark.parametrize("fit", imaging.FITS)
@pytest.mark.parametrize(
    "sides", [(128, 128), (127, 129), (1, 1), (1, 300), (128, 64), (256, 256), (700, 433)]
)
def test_pixels_become_those_of_their_png(sides: tuple[int, int], fit: imaging.Fit) -> None:
    array = photo(*sides)
    png, pixels = (
        imaging.open_image(encoded(Image.fromarray(array), "PNG")),
        imaging.open_image(pixels_of(array)),
    )
    np.testing.assert_array_equal(pixels.pixels(128, fit), png.pixels(128, fit))
    assert pixels.view(fit) == png.view(fit)
    np.testing.assert_array_equal(np.asarray(pixels.decode()), array)


def test_pixels_of_the_right_size_are_taken_as_they_are() -> None:
    array = photo(128, 128)
    data = pixels_of(array)
    image = imaging.open_image(data)
    assert image.quick
    seen = image.pixels(128)
    np.testing.assert_array_equal(seen, array)
    assert np.shares_memory(seen, np.frombuffer(data.rgb, np.uint8))


def test_pixels_are_quick_or_heavy_by_their_number() -> None:
    small, medium, large = (
        imaging.open_image(imaging.Pixels(side, side, bytes(3 * side**2)))
        for side in (256, 512, 3000)
    )
    assert small.quick
    assert not medium.quick
    assert not medium.heavy
    assert large.heavy


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (imaging.Pixels(2, 2, b""), imaging.BadImage, "0 bytes of pixels; 2 x 2 .* are 12"),
        (imaging.Pixels(2, 2, bytes(13)), imaging.BadImage, "13 bytes"),
        (imaging.Pixels(0, 2, b""), imaging.BadImage, "both sides are at least 1"),
        (imaging.Pixels(2, 0, b""), imaging.BadImage, "both sides are at least 1"),
        (imaging.Pixels(11, 1, bytes(33)), imaging.TooManyPixels, "at most 10"),
        (imaging.Pixels(2**32 - 1, 2**32 - 1, bytes(3)), imaging.BadImage, "3 bytes"),
    ],
)
def test_open_image_refuses_pixels_that_do_not_fit_their_size(
    pixels: imaging.Pixels, error: type[imaging.BadImage], message: str
) -> None:
    with pytest.raises(error, match=message):
        imaging.open_image(pixels, max_pixels=10)


def test_open_image_refuses_a_side_that_no_image_has() -> None:
    with pytest.raises(imaging.TooManyPixels, match="on a side"):
        imaging.open_image(imaging.Pixels(1_000_001, 1, bytes(3_000_003)))
