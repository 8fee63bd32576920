"""The geometry of crop and pad."""

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import imaging
from imaging.fit import content_box, view
from tests.support.photographs import encoded, photograph

SIDES = st.integers(1, 10_000_000)
SIZES = st.integers(8, 512)


@given(width=SIDES, height=SIDES, size=SIZES)
@example(width=1, height=10_000_000, size=128)
@example(width=2**32 - 1, height=1, size=8)
def test_content_box_has_the_shape_of_the_image_in_the_middle(
    width: int, height: int, size: int
) -> None:
    left, top, right, bottom = content_box(width, height, size)
    assert 0 <= left < right <= size
    assert 0 <= top < bottom <= size
    assert max(right - left, bottom - top) == size
    assert abs((right - left) - size * width / max(width, height)) < 1
    assert abs((bottom - top) - size * height / max(width, height)) < 1
    assert abs(left - (size - right)) <= 1
    assert abs(top - (size - bottom)) <= 1


@given(width=SIDES, height=SIDES, size=SIZES)
def test_crop_to_aspect_returns_what_content_box_holds(width: int, height: int, size: int) -> None:
    left, top, right, bottom = content_box(width, height, size)
    content = np.random.default_rng(0).integers(0, 256, (bottom - top, right - left, 3), np.uint8)
    square = np.zeros((size, size, 3), np.uint8)
    square[top:bottom, left:right] = content
    assert np.array_equal(imaging.crop_to_aspect(square, width, height), content)
    # The size of the content will do, where only that is known.
    assert np.array_equal(imaging.crop_to_aspect(square, right - left, bottom - top), content)


@given(side=SIDES, size=SIZES)
def test_crop_to_aspect_of_a_square_keeps_everything(side: int, size: int) -> None:
    square = np.zeros((size, size, 3), np.uint8)
    assert imaging.crop_to_aspect(square, side, side).shape == square.shape


@given(width=SIDES, height=SIDES)
def test_view_is_the_centred_square_or_everything(width: int, height: int) -> None:
    assert view(width, height, "pad") == (width, height, (0, 0, width, height))
    left, top, right, bottom = view(width, height, "crop").box
    assert right - left == bottom - top == min(width, height)
    assert left == width - right >= 0
    assert top == height - bottom >= 0


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pad_shows_the_whole_image_upright(orientation: int) -> None:
    photo = Image.fromarray(photograph("chelsea")[:100, :300])
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = imaging.open_image(encoded(photo, "JPEG", exif=exif, quality=95))
    standing = orientation in (6, 8)
    assert (file.width, file.height) == ((100, 300) if standing else (300, 100))
    assert file.view("pad") == (file.width, file.height, (0, 0, file.width, file.height))
    content = imaging.crop_to_aspect(file.pixels(96, "pad"), file.width, file.height)
    assert content.shape == ((96, 32, 3) if standing else (32, 96, 3))
    turned = photo.rotate({1: 0, 3: 180, 6: -90, 8: 90}[orientation], expand=True)
    expected = turned.resize(content.shape[1::-1], Image.Resampling.BICUBIC, reducing_gap=1.0)
    assert np.abs(content.astype(int) - np.asarray(expected)).mean() < 2


def test_pad_of_a_square_image_equals_crop() -> None:
    data = encoded(Image.fromarray(photograph("chelsea")[:200, :200]), "PNG")
    assert np.array_equal(imaging.prepare(data, 64, fit="pad"), imaging.prepare(data, 64))


@pytest.mark.parametrize("sides", [(5000, 1), (1, 5000), (400, 2)])
def test_pad_keeps_a_pixel_of_the_thinnest_image(sides: tuple[int, int]) -> None:
    red = encoded(Image.new("RGB", sides, (200, 30, 30)), "PNG")
    content = imaging.crop_to_aspect(imaging.prepare(red, 64, fit="pad"), *sides)
    assert min(content.shape[:2]) == 1
    assert np.array_equal(np.unique(content.reshape(-1, 3), axis=0), [[200, 30, 30]])
    assert (
        Image.open(io.BytesIO(imaging.encode_image(content, "JPEG"))).size[::-1]
        == (content.shape[:2])
    )
