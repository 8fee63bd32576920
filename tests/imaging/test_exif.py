"""Orientation, in every format and with every kind of profile, at full size and reduced."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import imaging
from imaging.exif import read_orientation
from loadtest.chaos.image_parts import APP1, APP2, chunk, riff_chunk, segment
from tests.support.images import jpegs, metadata, pngs, webps
from tests.support.images.reference import decoded, psnr
from tests.support.photographs import encoded, photograph

# Neither side is a whole number of blocks, or of what images are reduced by.
PHOTO = Image.fromarray(photograph("chelsea")[60:201, 100:287])  # 187 x 141
TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, 3),
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: np.rot90(stored),
}


def jpeg(image: Image.Image, exif: bytes, profile: bytes) -> bytes:
    before = segment(APP1, b"Exif\0\0" + exif) if exif else b""
    before += segment(APP2, b"ICC_PROFILE\0\1\1" + profile) if profile else b""
    return jpegs.inserted(encoded(image, "JPEG", quality=95, subsampling=0), before)


def png(image: Image.Image, exif: bytes, profile: bytes) -> bytes:
    before = (chunk(b"eXIf", exif) if exif else b"") + (pngs.profile(profile) if profile else b"")
    samples = np.atleast_3d(np.asarray(image))
    return pngs.encode(samples, pngs.GREY if image.mode == "L" else pngs.RGB, 8, before=before)


def webp(image: Image.Image, exif: bytes, profile: bytes) -> bytes:
    before = riff_chunk(b"ICCP", profile) if profile else b""
    after = riff_chunk(b"EXIF", exif) if exif else b""
    flags = (webps.EXIF if exif else 0) | (webps.PROFILE if profile else 0)
    return webps.extended(image, flags, before, after, lossless=True)


FORMATS = {"JPEG": jpeg, "PNG": png, "WEBP": webp}
PROFILES = {"no profile": b"", "RGB": metadata.RED_IS_BLUE, "gamma": metadata.rgb_profile(1.0)}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", FORMATS)
def test_decode_and_prepare_turn_images_upright(
    format: str, orientation: int, profile: str
) -> None:
    data = FORMATS[format](PHOTO, metadata.exif(orientation), PROFILES[profile])
    plain = FORMATS[format](PHOTO, b"", PROFILES[profile])
    wanted = TURNS[orientation](np.asarray(imaging.decode(plain)))
    file = imaging.open_image(data)
    assert (file.height, file.width) == wanted.shape[:2]
    assert np.array_equal(np.asarray(imaging.decode(data)), wanted)
    assert psnr(wanted, decoded(data)) > 40
    upright = png(Image.fromarray(np.ascontiguousarray(wanted)), b"", b"")
    for fit in imaging.FITS:
        for size in (128, 71):  # less than half: no reduction before the turn
            assert (
                psnr(imaging.prepare(data, size, fit=fit), imaging.prepare(upright, size, fit=fit))
                > 40
            )
    # Reduced by whole factors from the corner of the stored image, which is not the upright one's.
    for size in (64, 33, 17):
        assert psnr(imaging.prepare(data, size), imaging.prepare(upright, size)) > 25


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [8, 33])
def test_prepare_reduces_turned_images_without_a_shift(format: str, size: int) -> None:
    """A ramp of one level for each pixel shows a shift as another level."""
    down, right = np.mgrid[:141, :187]
    for orientation, turn in TURNS.items():
        for rising in (down, right):
            differences = []
            for ramp in (rising, 250 - rising):
                image = Image.fromarray(np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=2))
                turned = turn(ramp)
                height, width = turned.shape
                steps = (np.arange(size) + 0.5) * 141 / size - 0.5  # centres of pixels
                rows = (turned[1, 0] - turned[0, 0]) * (steps + (height - 141) / 2)
                columns = (turned[0, 1] - turned[0, 0]) * (steps + (width - 141) / 2)
                wanted = turned[0, 0] + np.add.outer(rows, columns)
                data = FORMATS[format](image, metadata.exif(orientation), b"")
                square = imaging.prepare(data, size)[..., 0]
                differences.append((square - wanted)[1:-1, 1:-1].mean())
            # Rounding adds the same to both ramps; a shift adds to one what the other loses.
            assert abs(differences[0] - differences[1]) / 2 < 0.3, orientation


@pytest.mark.parametrize("format", FORMATS)
def test_prepare_takes_orientations_that_do_not_exist_as_upright(format: str) -> None:
    plain = imaging.prepare(FORMATS[format](PHOTO, b"", b""), 64)
    for orientation in (0, 9, 65_535):
        data = FORMATS[format](PHOTO, metadata.exif(orientation), b"")
        assert np.array_equal(imaging.prepare(data, 64), plain)


@pytest.mark.parametrize("order", ["<", ">"])
def test_read_orientation_reads_every_kind_of_directory(order: str) -> None:
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 20) + bytes(12)
    make = struct.pack(order + "HHII", 0x010F, 2, 4, 0)
    for kind, value in ((1, "B3x"), (3, "H2x"), (4, "I")):
        entry = struct.pack(order + "HHI" + value, 0x0112, kind, 1, 6)
        for entries in ([entry], [make, entry], [make] * 50 + [entry, make]):
            directory = struct.pack(order + "H", len(entries)) + b"".join(entries)
            assert read_orientation(head + directory + bytes(4)) == 6
            assert read_orientation(b"Exif\0\0" + head + directory) == 6


def test_read_orientation_takes_what_it_cannot_read_as_upright() -> None:
    whole = metadata.exif(6)
    assert read_orientation(whole) == 6
    assert {read_orientation(whole[:length]) for length in range(len(whole) - 8)} == {1}
    strange = (
        None,
        b"",
        metadata.NOT_EXIF,
        whole[:4] + b"\xff\xff\xff\xff" + whole[8:],
        b"XX" + whole[2:],
    )
    for exif in strange:
        assert read_orientation(exif) == 1
