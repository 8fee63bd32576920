"""Colour profiles: of every colour space and format, of great size, unreadable or for others."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import imaging
from loadtest.chaos.image_parts import APP2, riff_chunk, segment
from tests.support.images import jpegs, metadata, pngs, webps
from tests.support.images.reference import decoded, psnr
from tests.support.photographs import encoded, photograph

PHOTO = Image.fromarray(photograph("chelsea")[60:124, 100:164])  # 64 x 64
GREY = PHOTO.convert("L")
CMYK = PHOTO.convert("CMYK")


def in_jpeg(image: Image.Image, profile: bytes) -> bytes:
    parts = [profile[at : at + 65_000] for at in range(0, len(profile), 65_000)]
    segments = b"".join(
        segment(APP2, b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part)
        for number, part in enumerate(parts, 1)
    )
    return jpegs.inserted(encoded(image, "JPEG", quality=98, subsampling=0), segments)


def in_png(image: Image.Image, profile: bytes) -> bytes:
    samples = np.atleast_3d(np.asarray(image))
    colour_type = pngs.GREY if image.mode == "L" else pngs.RGB
    return pngs.encode(samples, colour_type, 8, before=pngs.profile(profile))


def in_webp(image: Image.Image, profile: bytes) -> bytes:
    return webps.extended(image, webps.PROFILE, riff_chunk(b"ICCP", profile), lossless=True)


FORMATS = {"JPEG": in_jpeg, "PNG": in_png, "WEBP": in_webp}


def changes(profile: bytes, format: str, image: Image.Image) -> NDArray[np.uint8]:
    """The pixels, after the test that they are libvips's, and not those without the profile."""
    data = FORMATS[format](image, profile)
    pixels = imaging.prepare(data, 64)
    assert psnr(pixels, decoded(data)) > 40
    assert np.array_equal(np.asarray(imaging.decode(data)), pixels)
    assert psnr(pixels, imaging.prepare(encoded(image.convert("RGB"), "PNG"), 64)) < 30
    return pixels


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("profile", [metadata.RED_IS_BLUE, metadata.rgb_profile(1.0)])
def test_prepare_converts_rgb_profiles_to_srgb(profile: bytes, format: str) -> None:
    changes(profile, format, PHOTO)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_prepare_converts_grey_profiles_to_srgb(format: str) -> None:
    """Half of the light, stored as 128 with gamma 1.0, is 188 in sRGB."""
    changes(metadata.grey_profile(1.0), format, GREY)
    flat = Image.new("L", (64, 64), 128)
    square = imaging.prepare(FORMATS[format](flat, metadata.grey_profile(1.0)), 16)
    assert np.abs(square.astype(int) - 188).max() <= 1


def test_prepare_converts_cmyk_profiles_to_srgb() -> None:
    changes(metadata.cmyk_profile(), "JPEG", CMYK)


@pytest.mark.parametrize("format", FORMATS)
def test_prepare_converts_a_profile_of_two_megabytes(format: str) -> None:
    large = metadata.rgb_profile(1.0, 2 * 2**20)
    assert len(large) > 2 * 2**20
    small = imaging.prepare(FORMATS[format](PHOTO, metadata.rgb_profile(1.0)), 64)
    assert np.array_equal(imaging.prepare(FORMATS[format](PHOTO, large), 64), small)


@pytest.mark.parametrize("format", FORMATS)
def test_prepare_changes_almost_nothing_for_srgb(format: str) -> None:
    with_profile = imaging.prepare(FORMATS[format](PHOTO, metadata.SRGB), 64).astype(int)
    assert np.abs(with_profile - imaging.prepare(FORMATS[format](PHOTO, b"x"), 64)).max() <= 1


MISFITS = {
    "noise": b"no profile" * 50,
    "grey for RGB": metadata.grey_profile(1.0),
    "CMYK for RGB": metadata.cmyk_profile(),
    "header alone": metadata.SRGB[:128],
    "half": metadata.SRGB[:300],
    "tags beyond the end": metadata.SRGB[:132] + b"\xff" * 200,
    "many tags": metadata.SRGB[:128] + b"\xff\xff\xff\xff" + bytes(400),
    "another kind": metadata.SRGB[:12] + b"link" + metadata.SRGB[16:],
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("misfit", MISFITS)
def test_prepare_takes_pixels_with_an_unfit_profile_as_srgb(misfit: str, format: str) -> None:
    plain = imaging.prepare(FORMATS[format](PHOTO, b""), 64) if format != "WEBP" else None
    square = imaging.prepare(FORMATS[format](PHOTO, MISFITS[misfit]), 64)
    if format == "WEBP":
        plain = np.asarray(PHOTO)
    assert plain is not None
    assert np.array_equal(square, plain)


def test_prepare_takes_grey_with_an_rgb_profile_as_rgb() -> None:
    """Cameras write such files; the three channels are equal."""
    plain = imaging.prepare(encoded(GREY, "PNG"), 64)
    curve = imaging.prepare(in_png(GREY, metadata.rgb_profile(1.0)), 64)
    assert psnr(curve, plain) < 30
    assert psnr(curve, imaging.prepare(in_png(GREY, metadata.grey_profile(1.0)), 64)) > 40
