"""PNGs of every kind: the right pixels, whatever is written around them; a refusal for damage."""

import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import imaging
from imaging import BadImage
from loadtest.chaos.image_bombs import png_with, zlib_bomb
from loadtest.chaos.image_parts import chunk, png, png_header
from tests.support.images import metadata, pngs
from tests.support.images.pngs import GREY, GREY_ALPHA, KINDS, PALETTE, RGB, RGBA, encode
from tests.support.images.reference import decoded, psnr
from tests.support.photographs import encoded, photograph

PHOTO = photograph("chelsea")[60:93, 100:141]  # 41 x 33
PLAIN = encode(PHOTO, RGB, 8)
RANDOM = np.random.default_rng(7)


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(imaging.decode(data))


def samples(colour_type: int, depth: int, height: int = 33, width: int = 41) -> pngs.Samples:
    """Steps of all values from left to right, other ones in each channel."""
    channels = pngs.CHANNELS[colour_type]
    ramp = np.arange(width * height * channels).reshape(height, width, channels) * 2654435761
    return ramp % 2**32 >> (32 - depth)


def colours(count: int) -> pngs.Samples:
    return RANDOM.integers(0, 256, (count, 3))


@pytest.mark.parametrize("interlace", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9), (33, 41)])
@pytest.mark.parametrize(("colour_type", "depth"), KINDS)
def test_decode_takes_every_depth_colour_type_and_interlace(
    colour_type: int, depth: int, size: tuple[int, int], interlace: bool
) -> None:
    values = samples(colour_type, depth, *size)
    before = pngs.palette(colours(2**depth)) if colour_type == PALETTE else b""
    data = encode(values, colour_type, depth, interlace=interlace, before=before)
    right = pixels(data)
    assert psnr(right, decoded(data)) > 40
    if colour_type in (GREY, RGB):
        scaled = values >> 8 if depth == 16 else values * 255 // (2**depth - 1)
        assert np.array_equal(right, np.broadcast_to(scaled, right.shape))


@pytest.mark.parametrize("interlace", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_decode_makes_a_transparent_grey_white(depth: int, interlace: bool) -> None:
    values = samples(GREY, depth)
    clear = int(values[10, 10, 0])
    data = encode(values, GREY, depth, interlace=interlace, before=pngs.transparent(clear))
    scaled = values >> 8 if depth == 16 else values * 255 // (2**depth - 1)
    wanted = np.where(values == clear, 255, scaled)
    assert np.array_equal(pixels(data), np.broadcast_to(wanted, (33, 41, 3)))


@pytest.mark.parametrize("interlace", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("depth", [8, 16])
def test_decode_makes_a_transparent_rgb_white(depth: int, interlace: bool) -> None:
    """libvips does not apply tRNS to 16 bits, so the wanted pixels are computed here."""
    values = samples(RGB, depth)
    values[5:9, 3:8] = values[0, 0]
    values[20, 20] = values[0, 0] ^ [0, 0, 1]  # differs in the last bit alone
    before = pngs.transparent(*values[0, 0].tolist())
    data = encode(values, RGB, depth, interlace=interlace, before=before)
    is_clear = (values == values[0, 0]).all(axis=2, keepdims=True)
    assert 20 < is_clear.sum() < 40
    assert np.array_equal(pixels(data), np.where(is_clear, 255, values >> depth - 8))


@pytest.mark.parametrize("alphas", [b"\0", b"\0\x80\xff\x40"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_decode_puts_a_transparent_palette_on_white(depth: int, alphas: bytes) -> None:
    alphas = alphas[: 2**depth]
    palette, values = colours(2**depth), samples(PALETTE, depth)
    before = pngs.palette(palette) + chunk(b"tRNS", alphas)
    data = encode(values, PALETTE, depth, before=before)
    opacity = np.frombuffer(alphas.ljust(2**depth, b"\xff"), np.uint8)[:, None] / 255
    wanted = (palette * opacity + 255 * (1 - opacity))[values[..., 0]]
    assert np.abs(pixels(data) - wanted).max() <= 1.01


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour_type", [GREY_ALPHA, RGBA])
def test_decode_puts_alpha_on_white(colour_type: int, depth: int) -> None:
    values = samples(colour_type, depth)
    opacity = values[..., -1:] / (2**depth - 1)
    wanted = values[..., :-1] / (2**depth - 1) * 255 * opacity + 255 * (1 - opacity)
    assert np.abs(pixels(encode(values, colour_type, depth)) - wanted).max() <= 2


@pytest.mark.parametrize("size", [4, 10, 20])
@pytest.mark.parametrize("colour_type", [GREY_ALPHA, RGBA])
def test_prepare_averages_what_shows_of_transparent_pixels(colour_type: int, size: int) -> None:
    """A clear pixel's own colour has no say in the average."""
    values = np.zeros((40, 40, pngs.CHANNELS[colour_type]), int)
    values[:, ::2, -1] = 255  # every other column is opaque and black, the others clear
    values[:, 1::2, :-1] = 200
    square = imaging.prepare(encode(values, colour_type, 8), size)
    assert np.abs(square.astype(int) - 127).max() <= 2


def test_prepare_refuses_a_palette_image_without_palette() -> None:
    data = encode(samples(PALETTE, 8), PALETTE, 8)
    with pytest.raises(BadImage, match="palette"):
        imaging.prepare(data, 16)


def test_decode_keeps_the_colours_it_has_where_an_index_lies_beyond_the_palette() -> None:
    values = np.full((16, 16, 1), 1)
    values[4, 4] = 200
    data = encode(values, PALETTE, 8, before=pngs.palette(np.array([[1, 2, 3], [90, 60, 30]])))
    try:
        right = pixels(data)
    except BadImage:
        return
    is_known = values[..., 0] == 1
    assert (right[is_known] == [90, 60, 30]).all()


@pytest.mark.parametrize("place", ["before", "after"])
def test_prepare_reads_the_orientation_in_exif_chunks(place: str) -> None:
    upright = imaging.prepare(encode(np.rot90(PHOTO, 3), RGB, 8), 33)
    for exif in (metadata.exif(6), metadata.exif(6, little_endian=True)):
        for body in (exif, b"Exif\0\0" + exif):
            data = encode(PHOTO, RGB, 8, **{place: chunk(b"eXIf", body)})
            assert np.array_equal(imaging.prepare(data, 33), upright)
        for kind in (b"tEXt", b"zTXt", b"iTXt"):
            data = encode(PHOTO, RGB, 8, **{place: pngs.raw_exif(kind, exif)})
            assert np.array_equal(imaging.prepare(data, 33), upright)


def no_text(kind: bytes) -> bytes:
    """A text chunk whose stream is damaged."""
    return chunk(kind, pngs.text(kind, b"Comment", b"text" * 20)[8:-8] + b"\0\1\2\3")


XMP = pngs.text(b"iTXt", b"XML:com.adobe.xmp", metadata.xmp(6))
HARMLESS = {
    "empty cHRM": chunk(b"cHRM"),
    "cHRM": chunk(b"cHRM", bytes(range(32))),
    "gAMA of 1.0": chunk(b"gAMA", b"\0\1\x86\xa0"),
    "empty gAMA": chunk(b"gAMA"),
    "sRGB": chunk(b"sRGB", b"\0"),
    "cICP of HDR": chunk(b"cICP", b"\x09\x10\0\1"),
    "sBIT": chunk(b"sBIT", b"\5\6\5"),
    "empty sBIT": chunk(b"sBIT"),
    "background": chunk(b"bKGD", b"\0\xff\0\0\0\0"),
    "density of zero": chunk(b"pHYs", bytes(9)),
    "empty density": chunk(b"pHYs"),
    "time": chunk(b"tIME", b"\xff" * 7),
    "histogram": chunk(b"hIST", bytes(7)),
    "palette that is a hint": pngs.palette(np.arange(9).reshape(3, 3)),
    "unreadable EXIF": chunk(b"eXIf", metadata.NOT_EXIF),
    "empty EXIF": chunk(b"eXIf"),
    "EXIF in text that is no number": pngs.text(b"tEXt", b"Raw profile type exif", b"\nexif\n x"),
    "EXIF in text of odd length": pngs.text(b"tEXt", b"Raw profile type exif", b"\nexif\n 3\n4d4"),
    "XMP with an orientation": XMP,
    "unreadable profile": pngs.profile(b"no profile at all" * 9),
    "empty profile": chunk(b"iCCP"),
    "damaged profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(metadata.SRGB)[:200]),
    "long profile name": chunk(b"iCCP", b"p" * 200 + b"\0\0" + zlib.compress(metadata.SRGB)),
    "damaged zTXt": no_text(b"zTXt"),
    "damaged iTXt": no_text(b"iTXt"),
    "empty zTXt": chunk(b"zTXt"),
    "text of 2 MiB": pngs.text(b"tEXt", b"Comment", b"x" * 2 * 2**20),
    "text that inflates to 2 MiB": pngs.text(b"zTXt", b"Comment", b"x" * 2 * 2**20),
    "iTXt that inflates to 2 MiB": pngs.text(b"iTXt", b"Comment", b"x" * 2 * 2**20),
    "100 texts that inflate to 1 MiB": pngs.text(b"zTXt", b"Comment", b"x" * 2**20) * 100,
    "private chunk": chunk(b"prVt", b"text"),
    "wrong checksum of text": chunk(b"tEXt", b"Comment\0text", crc=1),
    "wrong checksum of gAMA": chunk(b"gAMA", b"\0\0\xb1\x8f", crc=1),
    "wrong checksum of EXIF": chunk(b"eXIf", metadata.exif(1), crc=1),
    "wrong checksum of a profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(b"p"), crc=1),
    "animation of one frame": pngs.frames(1) + pngs.frame(0, 41, 33),
    "animation of no frame": pngs.frames(0),
    "profile of 2 MiB for other channels": pngs.profile(metadata.grey_profile(1.0, 2 * 2**20)),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("added", HARMLESS)
def test_prepare_is_not_disturbed_by_what_makes_no_pixels(added: str, place: str) -> None:
    data = encode(PHOTO, RGB, 8, **{place: HARMLESS[added]})
    assert np.array_equal(imaging.prepare(data, 33), PHOTO[:, 4:37])


@pytest.mark.parametrize("length", [0, 3])
def test_prepare_takes_a_cut_animation_chunk_for_none(length: int) -> None:
    data = encode(PHOTO, RGB, 8, before=chunk(b"acTL", bytes(length)))
    assert np.array_equal(imaging.prepare(data, 33), PHOTO[:, 4:37])


@pytest.mark.parametrize("pieces", [2, 7, 200])
def test_decode_joins_pixels_in_many_chunks(pieces: int) -> None:
    assert np.array_equal(pixels(encode(PHOTO, RGB, 8, pieces=pieces)), PHOTO)
    empty = chunk(b"IDAT")
    data = encode(PHOTO, RGB, 8, pieces=pieces, before=empty * 3, after=empty * 3)
    assert np.array_equal(pixels(data), PHOTO)


def test_decode_ignores_what_follows_the_end() -> None:
    for tail in (b"PK\3\4" + bytes(500), PLAIN, chunk(b"IDAT", b"text"), b"\0"):
        assert np.array_equal(pixels(PLAIN + tail), PHOTO)


def test_decode_ignores_pixels_beyond_the_last_row() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in PHOTO)
    data = png(png_header(41, 33, 8, RGB), chunk(b"IDAT", zlib.compress(rows + bytes(5000))))
    assert np.array_equal(pixels(data), PHOTO)


def test_prepare_refuses_missing_and_damaged_pixels() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in PHOTO)
    packed, header = zlib.compress(rows), png_header(41, 33, 8, RGB)
    for bad in (
        png(header, chunk(b"IDAT", zlib.compress(rows[:-1]))),
        png(header, chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2]))),
        png(header, chunk(b"IDAT", packed[: len(packed) // 2])),
        png(header, chunk(b"IDAT", packed[:50] + b"\xff\0\xff" + packed[53:])),
        png(header, chunk(b"IDAT", zlib.compress(b"\x07" + rows[1:]))),  # no such filter
        png(header, chunk(b"IDAT")),
        png(header),
        png(chunk(b"IDAT", packed), header),
        PLAIN[:-30],
        PLAIN[:-14],
        PLAIN[: len(PLAIN) // 2],
        PLAIN[:33],
        PLAIN[:8],
    ):
        with pytest.raises(BadImage, match="the PNG cannot be decoded"):
            imaging.prepare(bad, 16)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_prepare_refuses_a_wrong_checksum_of_what_makes_pixels(kind: bytes) -> None:
    data = encode(samples(PALETTE, 8), PALETTE, 8, before=pngs.palette(colours(256)))
    at = data.index(kind)
    end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
    imaging.prepare(data, 16)
    damaged = data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]
    with pytest.raises(BadImage, match="the PNG cannot be decoded"):
        imaging.prepare(damaged, 16)


@pytest.mark.parametrize(
    ("depth", "colour_type"),
    [(3, GREY), (0, GREY), (16, PALETTE), (4, RGB), (8, 1), (8, 5), (8, 7)],
)
def test_prepare_refuses_headers_that_png_does_not_know(depth: int, colour_type: int) -> None:
    packed = zlib.compress(bytes(100_000))
    with pytest.raises(BadImage, match="the PNG cannot be decoded"):
        imaging.prepare(png(png_header(16, 16, depth, colour_type), chunk(b"IDAT", packed)), 16)


@pytest.mark.parametrize("size", [(0, 16), (16, 0), (0, 0), (2**31, 16), (16, 2**32 - 1)])
def test_open_image_refuses_sizes_that_png_does_not_allow(size: tuple[int, int]) -> None:
    with pytest.raises(BadImage):
        imaging.open_image(png(png_header(*size, 8, RGB), chunk(b"IDAT", zlib.compress(b""))))


@pytest.mark.parametrize("method", [11, 12], ids=["filter", "interlace"])
def test_prepare_refuses_unknown_methods(method: int) -> None:
    header = bytearray(png_header(41, 33, 8, RGB)[8:-4])
    header[method] = 9
    data = png(chunk(b"IHDR", bytes(header)), PLAIN[33:-12])
    with pytest.raises(BadImage, match="the PNG cannot be decoded"):
        imaging.prepare(data, 16)


def test_prepare_refuses_animations() -> None:
    for count in (2, 3, 10**6):
        with pytest.raises(BadImage, match=f"has {count} frames; send an image with one"):
            imaging.prepare(encode(PHOTO, RGB, 8, before=pngs.frames(count)), 16)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_prepare_does_not_inflate_bombs(kind: bytes) -> None:
    data = zlib_bomb(kind, 2**30)
    assert np.array_equal(imaging.prepare(data, 16), imaging.prepare(png_with(b""), 16))


def test_decode_takes_pngs_of_other_encoders() -> None:
    image = Image.fromarray(PHOTO)
    for converted in (image.quantize(64), image.convert("1"), image.convert("L")):
        data = encoded(converted, "PNG", optimize=True)
        assert np.array_equal(pixels(data), np.asarray(converted.convert("RGB")))
