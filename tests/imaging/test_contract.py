"""The image contract, step by step, against Pillow."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

import imaging
from tests.support.photographs import crops, encoded, photograph

PHOTO = Image.fromarray(photograph("chelsea")[60:220, 100:300])  # 200 x 160
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# The same profile with the primaries of red and blue exchanged: what it calls red is blue.
RED_IS_BLUE = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return np.asarray(
        image.resize(
            (size, size),
            Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
            reducing_gap=1.0,
        )
    )


def test_decode_jpeg_equals_pillow_pixel_for_pixel() -> None:
    for data in crops(14):
        assert np.array_equal(
            np.asarray(imaging.decode(data)),
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        )


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 2},
        {"progressive": True},
        {"quality": 20},
        {"optimize": True},
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decode_every_kind_of_jpeg_equals_pillow(options: dict[str, object], mode: str) -> None:
    data = encoded(PHOTO.convert(mode), "JPEG", **options)
    assert np.array_equal(
        np.asarray(imaging.decode(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


@pytest.mark.parametrize("size", [64, 128, 256])
def test_prepare_crops_the_centred_square_and_resizes(size: int) -> None:
    wide, tall = PHOTO, PHOTO.transpose(Image.Transpose.ROTATE_90)
    for image in (wide, tall):
        pixels = imaging.prepare(encoded(image, "PNG"), size)
        assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
        assert np.array_equal(pixels, square(image, size))


@pytest.mark.parametrize("side", [200, 256, 300])
def test_prepare_fast_resize_is_close_to_pure_bicubic(side: int) -> None:
    photo = Image.fromarray(photograph("astronaut")).resize((side, side), Image.Resampling.LANCZOS)
    pure = np.asarray(photo.resize((128, 128), Image.Resampling.BICUBIC)).astype(float)
    quick = imaging.prepare(encoded(photo, "PNG"), 128).astype(float)
    if side < 2 * 128:
        assert np.array_equal(quick, pure)
    assert 10 * np.log10(255**2 / max(1e-9, np.square(quick - pure).mean())) > 34


def test_prepare_gives_equal_pixels_for_lossless_formats() -> None:
    png = imaging.prepare(encoded(PHOTO, "PNG"), 128)
    assert np.array_equal(imaging.prepare(encoded(PHOTO, "WEBP", lossless=True), 128), png)
    jpeg = imaging.prepare(encoded(PHOTO, "JPEG", quality=98, subsampling=0), 128)
    assert np.abs(jpeg.astype(int) - png).mean() < 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_prepare_applies_every_exif_orientation(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTO, format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(imaging.decode(data)), np.asarray(upright))
    assert np.array_equal(imaging.prepare(data, 64), square(upright, 64))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_prepare_ignores_invalid_orientations(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(imaging.prepare(encoded(PHOTO, "PNG", exif=exif), 64), square(PHOTO, 64))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_prepare_converts_colour_profiles_to_srgb(format: str) -> None:
    red = Image.new("RGB", (32, 32), (250, 10, 10))
    pixels = imaging.prepare(encoded(red, format, icc_profile=RED_IS_BLUE), 16)
    assert pixels[..., 2].min() > 200
    assert pixels[..., 0].max() < 60


def test_prepare_ignores_srgb_and_unreadable_profiles() -> None:
    plain = imaging.prepare(encoded(PHOTO, "PNG"), 64)
    assert (
        np.abs(
            imaging.prepare(encoded(PHOTO, "PNG", icc_profile=SRGB), 64).astype(int) - plain
        ).max()
        <= 1
    )
    for profile in (b"no profile", SRGB[:200], SRGB[:300] + bytes(500)):
        assert np.array_equal(
            imaging.prepare(encoded(PHOTO, "PNG", icc_profile=profile), 64), plain
        )


def test_prepare_accepts_profiles_of_another_colour_model() -> None:
    grey = PHOTO.convert("L")
    assert imaging.prepare(encoded(grey, "JPEG", icc_profile=SRGB), 64).shape == (64, 64, 3)
    assert imaging.prepare(encoded(PHOTO.convert("CMYK"), "JPEG", icc_profile=SRGB), 64).shape == (
        64,
        64,
        3,
    )


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_decode_makes_transparent_pixels_white(format: str) -> None:
    image = Image.new("RGBA", (40, 40), (200, 0, 0, 0))
    image.paste((0, 0, 200, 255), (0, 0, 40, 20))
    image.paste((0, 0, 0, 128), (0, 30, 40, 40))
    pixels = np.asarray(imaging.decode(encoded(image, format, lossless=True)))
    assert pixels[0, 0].tolist() == [0, 0, 200]
    assert pixels[25, 0].tolist() == [255, 255, 255]
    assert np.abs(pixels[35, 0].astype(int) - 127).max() <= 1


def test_decode_makes_transparent_palette_grey_and_rgb_white() -> None:
    for mode, transparency in (("P", 0), ("L", 0), ("RGB", (0, 0, 0))):
        image = Image.new(mode, (8, 8), 0)
        assert (
            np.asarray(imaging.decode(encoded(image, "PNG", transparency=transparency))) == 255
        ).all(), mode
    assert (
        np.asarray(imaging.decode(encoded(Image.new("LA", (8, 8), (0, 0)), "PNG"))) == 255
    ).all()


def test_decode_converts_palette_grey_and_bilevel_to_rgb() -> None:
    for image in (PHOTO.quantize(64), PHOTO.convert("L"), PHOTO.convert("1")):
        assert np.array_equal(
            np.asarray(imaging.decode(encoded(image, "PNG"))), np.asarray(image.convert("RGB"))
        ), image.mode


def test_decode_scales_16_bit_grey_without_clipping() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = np.asarray(imaging.decode(encoded(Image.fromarray(ramp), "PNG")))
    assert np.array_equal(pixels, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_prepare_converts_cmyk_to_rgb() -> None:
    data = encoded(PHOTO.convert("CMYK"), "JPEG", quality=95)
    pixels = imaging.prepare(data, 64)
    assert np.abs(pixels.astype(int) - square(PHOTO, 64)).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_prepare_accepts_the_smallest_images(format: str, size: tuple[int, int]) -> None:
    pixels = imaging.prepare(
        encoded(Image.new("RGB", size, (40, 90, 200)), format, quality=100), 16
    )
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - (40, 90, 200)).max() <= 6


def test_decode_takes_the_first_image_of_a_jpeg_with_previews() -> None:
    preview = PHOTO.resize((50, 40))
    data = encoded(PHOTO, "MPO", save_all=True, append_images=[preview])
    file = imaging.open_image(data)
    assert (file.format, file.width, file.height) == ("JPEG", 200, 160)
    assert np.array_equal(
        np.asarray(imaging.decode(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_open_image_returns_format_and_size(format: str) -> None:
    file = imaging.open_image(encoded(PHOTO, format))
    assert (file.format, file.width, file.height) == (format, 200, 160)
