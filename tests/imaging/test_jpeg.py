"""JPEGs of every kind: the right pixels, whatever is written around them; a refusal for damage."""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

import imaging
from imaging import BadImage, UnsupportedFormat
from loadtest.chaos.image_parts import (
    APP0,
    APP1,
    APP2,
    APP14,
    COM,
    DHT,
    EOI,
    SOF1,
    SOS,
    segment,
)
from tests.support.images import jpegs, metadata
from tests.support.images.jpegs import Scan, encode, ycc
from tests.support.images.reference import decoded, psnr
from tests.support.photographs import encoded, photograph

PHOTO = Image.fromarray(photograph("chelsea")[60:95, 100:151])  # 51 x 35
PLANES = ycc(PHOTO)
GREY = np.asarray(PHOTO.convert("L"))
FULL, HALF = [(1, 1)] * 3, [(2, 2), (1, 1), (1, 1)]
SAMPLINGS = {
    "4:4:4": FULL,
    "4:2:0": HALF,
    "4:2:2": [(2, 1), (1, 1), (1, 1)],
    "4:4:0": [(1, 2), (1, 1), (1, 1)],
    "4:1:1": [(4, 1), (1, 1), (1, 1)],
    "4:1:0": [(4, 2), (1, 1), (1, 1)],
    "4:4:1": [(1, 4), (1, 1), (1, 1)],
    "a third": [(3, 1), (1, 1), (1, 1)],
    "a third of the rows": [(1, 3), (1, 1), (1, 1)],
    "2 x 1 everywhere": [(2, 1)] * 3,
    "1 x 2 everywhere": [(1, 2)] * 3,
    "chroma larger than luma": [(1, 1), (2, 2), (2, 2)],
    "one chroma wider": [(2, 1), (1, 1), (2, 1)],
    "chroma in halves of their own": [(2, 2), (2, 1), (1, 2)],
    "4, 2 and 1": [(4, 1), (2, 1), (1, 1)],
}
# More than ten blocks in a unit: the components must have scans of their own.
LARGE_SAMPLINGS = {
    "2 x 2 everywhere": [(2, 2)] * 3,
    "each its own": [(3, 2), (1, 2), (3, 1)],
}
SEPARATE = [Scan((0,)), Scan((1,)), Scan((2,))]
PROGRESSIVE = [
    Scan((0, 1, 2), 0, 0, 1),
    Scan((0,), 1, 5),
    Scan((2,), 1, 63),
    Scan((1,), 1, 63),
    Scan((0,), 6, 63),
    Scan((0, 1, 2), 0, 0, 0, 1),
]
ENCODINGS: dict[str, dict[str, object]] = {
    "one scan": {},
    "restart": {"restart": 2},
    "separate scans": {"scans": SEPARATE},
    "luma, then chroma": {"scans": [Scan((0,)), Scan((1, 2))]},
    "progressive": {"scans": PROGRESSIVE},
    "progressive with restart": {"scans": PROGRESSIVE, "restart": 3},
}
CMYK = [np.asarray(plane) for plane in PHOTO.convert("CMYK").split()]
# Adobe stores CMYK inverted, and YCCK as the YCbCr of red, green and blue that are the inks.
INVERTED = [255 - plane for plane in CMYK]
YCCK = [*ycc(Image.merge("RGB", [Image.fromarray(plane) for plane in CMYK[:3]])), INVERTED[3]]
PLAIN = encode(PLANES, HALF)


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(imaging.decode(data))


def loses_pixels(data: bytes) -> bool:
    """Whether libvips finds damage."""
    try:
        decoded(data)
    except pyvips.Error:
        return True
    return False


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_decode_takes_every_sampling_and_order_of_scans(sampling: str, encoding: str) -> None:
    data = encode(PLANES, SAMPLINGS[sampling], **ENCODINGS[encoding])
    assert psnr(pixels(data), decoded(data)) > 40
    # The encoder of this test is right: luma is stored in full, or at a half where chroma is not.
    assert psnr(pixels(data), np.asarray(PHOTO)) > (25 if "larger" in sampling else 30)


@pytest.mark.parametrize("sampling", LARGE_SAMPLINGS)
def test_decode_takes_large_sampling_factors_in_separate_scans(sampling: str) -> None:
    data = encode(PLANES, LARGE_SAMPLINGS[sampling], scans=SEPARATE)
    assert psnr(pixels(data), decoded(data)) > 40
    with pytest.raises(BadImage):  # libjpeg cannot
        imaging.prepare(encode(PLANES, LARGE_SAMPLINGS[sampling]), 16)


def test_decode_refuses_fractional_sampling() -> None:
    with pytest.raises(BadImage):
        imaging.prepare(encode(PLANES, [(3, 1), (2, 1), (1, 1)]), 16)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 9), (8, 8), (16, 17), (33, 31)])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0", "4:1:0", "chroma larger than luma"])
def test_decode_takes_every_size(sampling: str, size: tuple[int, int]) -> None:
    image = PHOTO.crop((0, 0, *size))
    for encoding in ({}, {"scans": PROGRESSIVE}):
        data = encode(ycc(image), SAMPLINGS[sampling], **encoding)
        assert pixels(data).shape == (size[1], size[0], 3)
        assert psnr(pixels(data), decoded(data)) > 40
        for side in (1, 5, 16):
            assert imaging.prepare(data, side).shape == (side, side, 3)


@pytest.mark.parametrize("size", [(0, 35), (51, 0), (0, 0)])
def test_open_image_refuses_a_size_of_zero(size: tuple[int, int]) -> None:
    """Also a height that comes behind the first scan: no decoder of today reads it."""
    with pytest.raises(BadImage):
        imaging.open_image(jpegs.with_size(PLAIN, *size))
    lines = segment(0xDC, b"\0\x23")
    with pytest.raises(BadImage):
        imaging.open_image(jpegs.with_size(PLAIN, 51, 0)[:-2] + lines + EOI)


@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize("restart", [0, 5])
def test_decode_takes_grey_with_any_factors(factors: tuple[int, int], restart: int) -> None:
    data = encode([GREY], [factors], restart=restart)
    assert psnr(pixels(data), decoded(data)) > 40
    assert psnr(pixels(data)[..., 0], GREY) > 45


def test_decode_takes_extended_sequential_and_lossless_grey() -> None:
    extended = encode(PLANES, HALF, frame=SOF1)
    assert np.array_equal(pixels(extended), pixels(PLAIN))
    exact = pixels(jpegs.lossless(GREY))
    assert np.array_equal(exact, np.repeat(GREY[..., None], 3, axis=2))
    assert imaging.prepare(jpegs.lossless(GREY), 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("ids", "before", "is_rgb"),
    [
        (b"\1\2\3", b"", False),
        (b"\1\2\3", jpegs.jfif(), False),
        (b"\0\1\2", b"", False),
        (b"\1\x22\x23", b"", False),
        (b"RGB", b"", True),
        (b"RGB", jpegs.jfif(), False),
        (b"\1\2\3", jpegs.adobe(0), True),
        (b"\1\2\3", jpegs.adobe(1), False),
        (b"\1\2\3", jpegs.adobe(2), False),
        (b"RGB", jpegs.adobe(1), False),
        (b"\1\2\3", jpegs.jfif() + jpegs.adobe(0), False),
        (b"\1\2\3", jpegs.adobe(1)[:-1].replace(b"\0\x0e", b"\0\x0d"), False),  # a byte too short
    ],
)
def test_decode_infers_the_colour_space_as_libjpeg_does(
    ids: bytes, before: bytes, is_rgb: bool
) -> None:
    planes = [np.asarray(plane) for plane in PHOTO.split()] if is_rgb else PLANES
    data = encode(planes, FULL, ids=ids, before=before)
    assert psnr(pixels(data), np.asarray(PHOTO)) > 40


@pytest.mark.parametrize("sampling", [[(1, 1)] * 4, [(2, 2), (1, 1), (1, 1), (2, 2)]])
@pytest.mark.parametrize(
    ("planes", "before"),
    [(INVERTED, jpegs.adobe(0)), (INVERTED, b""), (YCCK, jpegs.adobe(2))],
    ids=["Adobe CMYK", "CMYK", "YCCK"],
)
def test_decode_takes_four_components(
    planes: list[NDArray[np.uint8]], before: bytes, sampling: list[tuple[int, int]]
) -> None:
    data = encode(planes, sampling, before=before)
    wanted = np.asarray(Image.merge("CMYK", [Image.fromarray(p) for p in CMYK]).convert("RGB"))
    is_reduced_colour = sampling[1] != sampling[0] and before != jpegs.adobe(2)
    assert psnr(pixels(data), wanted) > (25 if is_reduced_colour else 35)
    by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert psnr(pixels(data), by_pillow) > 40
    for share in (0.2, 0.5, 0.8):
        coded = jpegs.entropy_data(data)
        end = coded.start + int((coded.stop - coded.start) * share)
        for damaged in (data[:end], data[:end] + EOI):
            with pytest.raises(BadImage):
                imaging.prepare(damaged, 16)
        overwritten = jpegs.overwritten(data, share)
        if not loses_pixels(overwritten):
            continue  # the bytes were digits of a coefficient, not a code
        with pytest.raises(BadImage):
            imaging.prepare(overwritten, 16)


def test_decode_refuses_two_and_five_components_by_name() -> None:
    for planes in ([GREY] * 2, [GREY] * 4):
        data = encode(planes, [(1, 1)] * len(planes))
        if len(planes) == 4:
            frame = data.index(b"\xff\xc0")
            data = data[: frame + 9] + b"\x05" + data[frame + 10 :]
        with pytest.raises(BadImage):
            imaging.prepare(data, 16)
    with pytest.raises(UnsupportedFormat, match="2 components"):
        imaging.prepare(encode([GREY] * 2, [(1, 1)] * 2), 16)


THUMBNAIL = encoded(PHOTO.resize((16, 12)), "JPEG")
XMP = b"http://ns.adobe.com/xap/1.0/\0" + metadata.xmp(6)
HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "JFIF of version 3": lambda data: jpegs.inserted(data, jpegs.jfif(0x0301)),
    "JFIF with a density": lambda data: jpegs.inserted(data, jpegs.jfif(0x0102, 2, (0, 65_535))),
    "JFIF of 5 bytes": lambda data: jpegs.inserted(data, segment(APP0, b"JFIF\0")),
    "JFIF of 9 bytes": lambda data: jpegs.inserted(data, segment(APP0, b"JFIF\0\1\1\0\0")),
    "JFIF twice": lambda data: jpegs.inserted(data, jpegs.jfif() * 2),
    "JFIF with a thumbnail": lambda data: jpegs.inserted(
        data, segment(APP0, b"JFIF\0\1\1\0\0\1\0\1\1\1RGB")
    ),
    "JFXX": lambda data: jpegs.inserted(data, segment(APP0, b"JFXX\0\x10" + THUMBNAIL)),
    "Adobe too short": lambda data: jpegs.inserted(data, segment(APP14, b"Adobe")),
    "unreadable EXIF": lambda data: jpegs.inserted(
        data, segment(APP1, b"Exif\0\0" + metadata.NOT_EXIF)
    ),
    "empty EXIF": lambda data: jpegs.inserted(data, segment(APP1, b"Exif\0\0")),
    "EXIF of noise": lambda data: jpegs.inserted(data, segment(APP1, b"Exif\0\0" + b"\xa5" * 999)),
    "EXIF with a thumbnail": lambda data: jpegs.inserted(
        data, segment(APP1, b"Exif\0\0" + metadata.exif(1) + THUMBNAIL)
    ),
    "XMP with an orientation": lambda data: jpegs.inserted(data, segment(APP1, XMP)),
    "an unreadable profile": lambda data: jpegs.inserted(
        data, segment(APP2, b"ICC_PROFILE\0\1\1" + bytes(500))
    ),
    "comments": lambda data: jpegs.inserted(data, segment(COM, b"text") * 300),
    "empty comments": lambda data: jpegs.inserted(data, segment(COM) * 300),
    "every application segment": lambda data: jpegs.inserted(
        data, b"".join(segment(0xE0 + i, b"\xff\xd8\xff\xc0" * 9) for i in range(16))
    ),
    "fill bytes": jpegs.with_fill_bytes,
    "stray bytes between segments": lambda data: jpegs.before_marker(data, DHT, b"\0\x12\x34\0"),
    "many stray bytes between segments": lambda data: jpegs.before_marker(data, SOS, bytes(5000)),
    "stray bytes before the end": lambda data: data[:-2] + b"\x12\x34\x56" + EOI,
    "zeros before the end": lambda data: data[:-2] + bytes(5000) + EOI,
    "fill bytes before the end": lambda data: data[:-2] + b"\xff" * 500 + EOI,
    "data behind the end": lambda data: data + b"PK\3\4" + bytes(range(256)) * 20,
    "a JPEG behind the end": lambda data: data + THUMBNAIL,
    "half a JPEG behind the end": lambda data: data + THUMBNAIL[:300],
    "restart interval of zero": lambda data: jpegs.before_marker(data, SOS, segment(0xDD, b"\0\0")),
    "a marker for tests": lambda data: jpegs.inserted(data, b"\xff\x01"),
}
KINDS = {
    "4:2:0": PLAIN,
    "grey": encode([GREY], [(1, 1)]),
    "progressive": encode(PLANES, HALF, scans=PROGRESSIVE),
    "restart": encode(PLANES, HALF, restart=3),
    "4:1:0": encode(PLANES, SAMPLINGS["4:1:0"]),
    "Pillow's": encoded(PHOTO, "JPEG"),
    "Pillow's progressive": encoded(PHOTO, "JPEG", progressive=True),
}


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (edit, kind)
        for edit in HARMLESS
        for kind in ("4:2:0", "grey", "progressive", "4:1:0", "Pillow's")
    ],
)
def test_prepare_is_not_disturbed_by_what_makes_no_pixels(edit: str, kind: str) -> None:
    data = KINDS[kind]
    assert HARMLESS[edit](data) != data
    assert np.array_equal(imaging.prepare(HARMLESS[edit](data), 35), imaging.prepare(data, 35))


@pytest.mark.parametrize("kind", ["4:2:0", "grey", "4:1:0", "Pillow's"])
def test_prepare_ignores_the_last_coefficient_in_scans_of_sequential_files(kind: str) -> None:
    data = jpegs.with_last_coefficient(KINDS[kind], 0)
    assert data != KINDS[kind]
    assert np.array_equal(imaging.prepare(data, 35), imaging.prepare(KINDS[kind], 35))


@pytest.mark.parametrize("kind", KINDS)
def test_prepare_refuses_a_missing_end(kind: str) -> None:
    data = KINDS[kind]
    assert data.endswith(EOI)
    for cut in (2, 1, 3, 20, 200):
        with pytest.raises(BadImage, match="the JPEG cannot be decoded"):
            imaging.prepare(data[:-cut], 16)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "4:1:0"])
def test_prepare_refuses_a_scan_that_ends_early(kind: str, share: float) -> None:
    data = KINDS[kind]
    coded = jpegs.entropy_data(data)
    end = coded.start + int((coded.stop - coded.start) * share)
    for damaged in (data[:end], data[:end] + EOI):
        with pytest.raises(BadImage, match="the JPEG cannot be decoded"):
            imaging.prepare(damaged, 16)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "4:1:0"])
def test_prepare_refuses_holes_that_libvips_refuses(kind: str) -> None:
    """By chance, a decoder finds its way back after a hole, and has neither too few codes nor bytes
    left over. No decoder notices that."""
    refused = 0
    for share in np.linspace(0.02, 0.9, 30):
        data = jpegs.with_hole(KINDS[kind], share, 29)
        try:
            imaging.prepare(data, 16)
        except BadImage as error:
            assert "the JPEG cannot be decoded" in str(error)
            refused += 1
        else:
            assert not loses_pixels(data)
    assert refused > 15


@pytest.mark.parametrize("share", [0.05, 0.4, 0.6])
@pytest.mark.parametrize("kind", ["4:2:0", "grey", "restart"])
def test_prepare_refuses_codes_that_are_in_no_table(kind: str, share: float) -> None:
    with pytest.raises(BadImage, match="the JPEG cannot be decoded"):
        imaging.prepare(jpegs.overwritten(KINDS[kind], share), 16)


@pytest.mark.parametrize(
    "scans",
    [
        SEPARATE[:2],
        [Scan((0, 1), 0, 0), Scan((0,), 1, 63)],
        [PROGRESSIVE[1], PROGRESSIVE[3]],
    ],
)
def test_prepare_refuses_a_file_without_a_component_s_scan(scans: list[Scan]) -> None:
    with pytest.raises(BadImage):
        imaging.prepare(encode(PLANES, FULL, scans=scans), 16)


PROFILE = metadata.RED_IS_BLUE
HALVES = [PROFILE[:300], PROFILE[300:]]


def icc(*parts: tuple[int, int, bytes]) -> bytes:
    """Segments of (number, count, part of the profile)."""
    return b"".join(
        segment(APP2, b"ICC_PROFILE\0" + bytes([number, count]) + part)
        for number, count, part in parts
    )


@pytest.mark.parametrize(
    "parts",
    [
        [(1, 1, PROFILE)],
        [(1, 2, HALVES[0]), (2, 2, HALVES[1])],
        [(2, 2, HALVES[1]), (1, 2, HALVES[0])],
        [(0, 2, HALVES[0]), (1, 2, HALVES[1])],
        [(1, 2, HALVES[0]), (1, 2, HALVES[0]), (2, 2, HALVES[1])],
        [(1, 9, HALVES[0]), (2, 9, HALVES[1])],
    ],
    ids=["one", "two", "reversed", "from 0", "one twice", "another count"],
)
def test_prepare_joins_the_segments_of_a_profile(parts: list[tuple[int, int, bytes]]) -> None:
    red = Image.new("RGB", (32, 32), (250, 10, 10))
    square = imaging.prepare(jpegs.inserted(encoded(red, "JPEG"), icc(*parts)), 16)
    assert square[..., 2].min() > 200
    assert square[..., 0].max() < 60


@pytest.mark.parametrize("number", [0, 1])
def test_prepare_takes_a_profile_that_misses_a_segment_as_srgb(number: int) -> None:
    data = jpegs.inserted(PLAIN, icc((number + 1, 2, HALVES[number])))
    assert np.array_equal(imaging.prepare(data, 35), imaging.prepare(PLAIN, 35))


def test_decode_takes_the_first_of_a_camera_s_images() -> None:
    preview = PHOTO.resize((50, 40))
    data = encoded(PHOTO, "MPO", save_all=True, append_images=[preview, preview])
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert np.array_equal(imaging.prepare(data[:-100], 35), imaging.prepare(data, 35))


LARGE = Image.fromarray(photograph("astronaut"))  # 512 x 512
SCALED_PLANES = ycc(LARGE.resize((161, 161), Image.Resampling.LANCZOS))
LARGE_ODD = LARGE.crop((3, 5, 3 + 501, 5 + 389))


def exactly(data: bytes, size: int) -> NDArray[np.uint8]:
    """The contract without the DCT domain: every pixel decoded, then averaged in blocks where the
    contract allows to decode at 1/8, 1/4 or 1/2."""
    full = Image.fromarray(decoded(data))
    side = min(full.size)
    left, top = (full.width - side) / 2, (full.height - side) / 2
    n = next(n for n in (8, 4, 2, 1) if 2 * n <= side / size or n == 1)
    reduced = full.reduce(n)
    box = (left / n, top / n, (left + side) / n, (top + side) / n)
    box = (*box[:2], min(reduced.width, box[2]), min(reduced.height, box[3]))
    resized = reduced.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=1.0)
    return np.asarray(resized)


@pytest.mark.parametrize("size", [16, 31, 64, 100, 128])
@pytest.mark.parametrize("image", [LARGE, LARGE_ODD], ids=["square", "odd"])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 2},
        {"progressive": True},
        {"keep_rgb": True},
        {"quality": 30},
    ],
    ids=str,
)
def test_prepare_scales_as_averaging_all_pixels_does(
    options: dict[str, object], image: Image.Image, size: int
) -> None:
    """Half as many frequencies of a block are not quite the averages of its pixels; 40 dB is an
    error of 2.5 levels of 255."""
    data = encoded(image, "JPEG", **{"quality": 92, **options})
    assert psnr(imaging.prepare(data, size), exactly(data, size)) > 40


@cache
def scaled(sampling: str) -> bytes:
    return encode(SCALED_PLANES, SAMPLINGS[sampling])


@pytest.mark.parametrize("size", [8, 16, 40, 100])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_prepare_scales_every_sampling(sampling: str, size: int) -> None:
    data = scaled(sampling)
    assert psnr(imaging.prepare(data, size), exactly(data, size)) > 40
