"""Bad images: any bytes become pixels or a BadImage with a reason, in bounded time."""

import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import imaging
from imaging import BadImage, TooManyPixels, UnsupportedFormat
from tests.support.photographs import encoded, jpeg, photograph

PHOTO = Image.fromarray(photograph("coffee")[100:148, 200:264])  # 64 x 48


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of 69 bytes whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", bytes(12))
        + chunk(b"IEND", b"")
    )


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(PHOTO, "JPEG"))
    frame = data.index(b"\xff\xc0") + 5
    data[frame : frame + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [png_claiming(9000, 9000), png_claiming(2**31 - 1, 2**31 - 1), jpeg_claiming(60_000, 60_000)],
)
def test_prepare_refuses_too_many_pixels_before_decoding(data: bytes) -> None:
    assert len(png_claiming(9000, 9000)) == 69
    started = time.perf_counter()
    with pytest.raises(TooManyPixels, match="at most 36,000,000 are allowed"):
        imaging.prepare(data, 128)
    assert time.perf_counter() - started < 0.5


def test_prepare_allows_exactly_the_pixel_limit() -> None:
    data = encoded(PHOTO, "PNG")
    assert imaging.prepare(data, 16, max_pixels=64 * 48).shape == (16, 16, 3)
    with pytest.raises(TooManyPixels, match="64 x 48 = 3,072 pixels"):
        imaging.prepare(data, 16, max_pixels=64 * 48 - 1)


@pytest.mark.parametrize(("width", "height"), [(1, 1_000_001), (1_000_001, 1)])
def test_open_image_refuses_a_side_that_costs_more_than_its_pixels(width: int, height: int) -> None:
    with pytest.raises(TooManyPixels, match="at most 1,000,000 are allowed on a side"):
        imaging.open_image(png_claiming(width, height))


def test_empty_input_is_refused() -> None:
    for call in (imaging.open_image, imaging.decode, lambda data: imaging.prepare(data, 16)):
        with pytest.raises(BadImage, match="0 bytes"):
            call(b"")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.mark.parametrize(
    ("name", "data"),
    [(name, encoded(PHOTO, name)) for name in ("GIF", "BMP", "TIFF", "ICO", "AVIF")]
    + [
        ("JPEG 2000", encoded(PHOTO, "JPEG2000")),
        ("HEIC", HEIC),
        ("SVG", SVG),
        ("SVG", b"\xef\xbb\xbf  <svg></svg>"),
        ("PSD", b"8BPS\0\1"),
    ]
    + [
        ("JPEG XL", b"\xff\x0a\xfa\x1f"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("QOI", b"qoif\0\0\0\1\0\0\0\1\4\0"),
    ],
)
def test_prepare_names_unsupported_formats(name: str, data: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match=f"this is {name}: send a JPEG, PNG or WebP"):
        imaging.prepare(data, 16)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        bytes(1000),
        b"hello, world" * 50,
        b"<html><body>404</body></html>",
        b"%PDF-1.7\n",
        b"BMW is a car maker",
    ],
)
def test_prepare_refuses_bytes_that_are_no_image(data: bytes) -> None:
    with pytest.raises(BadImage, match="not an image") as refused:
        imaging.prepare(data, 16)
    assert not isinstance(refused.value, UnsupportedFormat)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9, 0.98])
def test_prepare_refuses_truncated_images(format: str, share: float) -> None:
    data = encoded(PHOTO, format)
    with pytest.raises(BadImage, match=f"the {format} cannot be decoded") as refused:
        imaging.prepare(data[: max(12, int(len(data) * share))], 16)
    assert type(refused.value) is BadImage


def test_prepare_refuses_truncated_cmyk_jpegs() -> None:
    data = encoded(PHOTO.convert("CMYK"), "JPEG")
    with pytest.raises(BadImage, match="truncated"):
        imaging.prepare(data[: len(data) // 2], 16)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "tail",
    [b"PK\3\4" + bytes(200), b"<script>alert(1)</script>", b"%PDF-1.7"],
    ids=["archive", "page", "document"],
)
def test_prepare_drops_data_appended_to_an_image(format: str, tail: bytes) -> None:
    """A polyglot is refused or decodes to its leading image; one with another start is refused."""
    data = encoded(PHOTO, format)
    try:
        pixels = imaging.prepare(data + tail, 16)
    except BadImage:
        pass
    else:
        assert np.array_equal(pixels, imaging.prepare(data, 16))
        assert tail[:8] not in imaging.encode_image(pixels, format)
    with pytest.raises(BadImage):
        imaging.prepare(tail + data, 16)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_prepare_refuses_animations(format: str) -> None:
    frames = [PHOTO, PHOTO.transpose(Image.Transpose.ROTATE_180)]
    with pytest.raises(BadImage, match="2 frames; send an image with one"):
        imaging.prepare(encoded(frames[0], format, save_all=True, append_images=frames[1:]), 16)


def seeds() -> list[bytes]:
    """Small images with every feature that has a parser: EXIF, profile, alpha, palette, .."""
    exif = Image.Exif()
    exif[0x0112] = 6
    small = PHOTO.resize((24, 16))
    profile = Image.open(io.BytesIO(encoded(small, "PNG"))).info.get("icc_profile", b"profile" * 20)
    return [
        *(
            encoded(small, format, exif=exif, icc_profile=profile)
            for format in ("JPEG", "PNG", "WEBP")
        ),
        encoded(small.convert("CMYK"), "JPEG", exif=exif),
        encoded(small, "MPO", save_all=True, append_images=[small]),
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("RGBA"), "WEBP", lossless=True),
        encoded(small.quantize(16), "PNG", transparency=3),
        encoded(small, "PNG", save_all=True, append_images=[small.rotate(90)]),
    ]


SEEDS = seeds()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A seed with bytes overwritten, cut or repeated, mostly near the front, in the headers."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.one_of(st.integers(0, min(400, len(data))), st.integers(0, len(data))))
        length = draw(st.integers(0, 8))
        data[at : at + length] = draw(
            st.one_of(st.binary(max_size=8), st.just(bytes(data[at : at + length]) * 2))
        )
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(st.one_of(damaged(), st.binary(max_size=200)))
def test_prepare_refuses_or_decodes_any_bytes(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks about broken EXIF
        try:
            pixels = imaging.prepare(data, 16, max_pixels=1_000_000)
        except BadImage as refused:
            assert str(refused)
            return
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)


def test_prepare_reads_large_jpegs_within_the_limit() -> None:
    assert imaging.open_image(jpeg()).format == "JPEG"
    assert imaging.prepare(jpeg(), 128).shape == (128, 128, 3)
