"""WebPs of every kind: the right pixels, whatever is written around them; a refusal for damage."""

import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import imaging
from imaging import BadImage, TooManyPixels
from loadtest.chaos.image_bombs import lossless_webp, lossy_webp_with_alpha
from loadtest.chaos.image_parts import lossless_webp_data, riff_chunk, webp, webp_header
from tests.support.images import metadata, webps
from tests.support.images.reference import decoded, psnr
from tests.support.photographs import encoded, photograph

PHOTO = Image.fromarray(photograph("chelsea")[60:93, 100:141])  # 41 x 33
CLEAR = PHOTO.copy()
CLEAR.putalpha(Image.fromarray(photograph("chelsea")[160:193, 200:241, 0]))
OPTIONS: dict[str, dict[str, object]] = {
    "lossy": {"quality": 90},
    "poor": {"quality": 5},
    "lossless": {"lossless": True},
}


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(imaging.decode(data))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 16), (17, 15), (41, 33)])
@pytest.mark.parametrize("image", [PHOTO, CLEAR, PHOTO.convert("L")], ids=["RGB", "RGBA", "L"])
@pytest.mark.parametrize("options", OPTIONS)
def test_decode_takes_lossy_lossless_and_alpha(
    options: str, image: Image.Image, size: tuple[int, int]
) -> None:
    data = encoded(image.crop((0, 0, *size)), "WEBP", **OPTIONS[options])
    assert psnr(pixels(data), decoded(data)) > 40
    for side in (1, 7, 16):
        assert imaging.prepare(data, side).shape == (side, side, 3)


def test_decode_takes_lossy_pixels_with_compressed_and_plain_alpha() -> None:
    assert np.abs(pixels(lossy_webp_with_alpha(41, 33)).astype(int) - 191).max() <= 2
    alpha = riff_chunk(b"ALPH", b"\0" + np.asarray(CLEAR.getchannel("A")).tobytes())
    data = webp(webp_header(41, 33, webps.ALPHA), alpha, webps.pixels(PHOTO, quality=90))
    assert psnr(pixels(data), decoded(data)) > 40


@pytest.mark.parametrize("alpha", [255, 128, 0])
def test_decode_takes_lossless_pixels_of_one_colour(alpha: int) -> None:
    wanted = np.array([200, 100, 50]) * alpha / 255 + 255 - alpha
    assert np.abs(pixels(lossless_webp(41, 33, alpha)) - wanted).max() <= 1
    extended = webp(webp_header(41, 33, webps.ALPHA), lossless_webp(41, 33, alpha)[12:])
    assert np.abs(pixels(extended) - wanted).max() <= 1


EXIF, XMP = riff_chunk(b"EXIF", metadata.exif(6)), riff_chunk(b"XMP ", metadata.xmp(6))
HARMLESS: dict[str, tuple[int, bytes, bytes]] = {
    "VP8X alone": (0, b"", b""),
    "every flag without its chunk": (webps.EXIF | webps.XMP | webps.PROFILE, b"", b""),
    "XMP with an orientation": (webps.XMP, b"", XMP),
    "unreadable EXIF": (webps.EXIF, b"", riff_chunk(b"EXIF", metadata.NOT_EXIF)),
    "EXIF of odd length": (webps.EXIF, b"", riff_chunk(b"EXIF", metadata.exif(1) + b"\0")),
    "empty EXIF": (webps.EXIF, b"", riff_chunk(b"EXIF")),
    "unreadable profile": (webps.PROFILE, riff_chunk(b"ICCP", b"no profile"), b""),
    "empty profile": (webps.PROFILE, riff_chunk(b"ICCP"), b""),
    "unknown chunk in front": (0, riff_chunk(b"prvt", b"odd"), b""),
    "unknown chunk behind": (0, b"", riff_chunk(b"prvt", b"odd")),
    "large unknown chunk": (0, b"", riff_chunk(b"prvt", bytes(2**20))),
    "900 unknown chunks": (0, riff_chunk(b"prvt", b"odd") * 900, b""),
}


@pytest.mark.parametrize("options", ["lossy", "lossless"])
@pytest.mark.parametrize("added", HARMLESS)
def test_prepare_is_not_disturbed_by_what_makes_no_pixels(added: str, options: str) -> None:
    flags, before, after = HARMLESS[added]
    data = webps.extended(PHOTO, flags, before, after, **OPTIONS[options])
    plain = encoded(PHOTO, "WEBP", **OPTIONS[options])
    assert np.array_equal(imaging.prepare(data, 33), imaging.prepare(plain, 33))


@pytest.mark.parametrize("options", ["lossy", "lossless"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_prepare_reads_orientation_and_profile_wherever_they_stand(
    place: str, options: str
) -> None:
    """The standard puts the profile in front; the flags are not asked, as Pillow does not."""
    red = Image.new("RGB", (32, 32), (250, 10, 10))
    red.paste((10, 10, 10), (0, 0, 32, 8))
    for flags in (webps.EXIF | webps.PROFILE, 0):
        chunks = EXIF + riff_chunk(b"ICCP", metadata.RED_IS_BLUE)
        data = webps.extended(red, flags, **{place: chunks}, **OPTIONS[options])
        square = imaging.prepare(data, 32)
        assert square[:, :20, 2].min() > 190
        assert square[:, :20, 0].max() < 70
        assert square[:, 25:].max() < 70  # what was on top is on the right


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("image", [PHOTO, CLEAR], ids=["RGB", "RGBA"])
def test_decode_takes_an_animation_of_one_frame(image: Image.Image, options: str) -> None:
    data = webps.animation(image, 1, **OPTIONS[options])
    plain = encoded(image, "WEBP", **OPTIONS[options])
    assert psnr(pixels(data), pixels(plain)) > 40


@pytest.mark.parametrize(
    "flags",
    [
        webps.ALPHA,
        0,
    ],
    ids=["flag", "no flag"],
)
def test_decode_makes_white_what_the_only_frame_does_not_cover(flags: int) -> None:
    control = riff_chunk(b"ANIM", b"\xff\xff\xff\xff\0\0")
    frame = bytes(6) + bytes([40, 0, 0, 32, 0, 0, 100, 0, 0, 0]) + webps.pixels(PHOTO)
    data = webp(webp_header(80, 50, webps.ANIMATED | flags), control, riff_chunk(b"ANMF", frame))
    assert psnr(pixels(data), decoded(data)) > 40
    assert (pixels(data)[:, 41:] == 255).all()


@pytest.mark.parametrize("count", [2, 3, 50])
def test_prepare_refuses_several_frames(count: int) -> None:
    with pytest.raises(BadImage, match=f"has {count} frames; send an image with one"):
        imaging.prepare(webps.animation(PHOTO, count), 16)


def test_prepare_refuses_an_animation_without_a_frame() -> None:
    with pytest.raises(BadImage):
        imaging.prepare(webps.animation(PHOTO, 0), 16)


def test_decode_ignores_what_follows_the_end() -> None:
    for options in OPTIONS.values():
        data = encoded(PHOTO, "WEBP", **options)
        for tail in (b"PK\3\4" + bytes(500), data, b"\0"):
            assert np.array_equal(pixels(data + tail), pixels(data))


def test_decode_takes_a_file_without_its_last_padding_byte() -> None:
    data = lossless_webp(41, 33)
    assert len(next(webps.chunks(data))[1]) % 2
    assert np.array_equal(pixels(data[:-1]), pixels(data))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("image", [PHOTO, CLEAR], ids=["RGB", "RGBA"])
@pytest.mark.parametrize("options", OPTIONS)
def test_prepare_refuses_truncated_files(options: str, image: Image.Image, share: float) -> None:
    data = encoded(image, "WEBP", **OPTIONS[options])
    cut = data[: int(len(data) * share)]
    for bad in (cut, cut[:4] + (len(cut) - 8).to_bytes(4, "little") + cut[8:]):
        with pytest.raises(BadImage, match="the WEBP cannot be decoded"):
            imaging.prepare(bad, 16)


@pytest.mark.parametrize("options", OPTIONS)
def test_prepare_refuses_a_short_chunk_of_pixels(options: str) -> None:
    kind, body = next(webps.chunks(encoded(PHOTO, "WEBP", **OPTIONS[options])))
    for keep in (0, 3, 9, 10, len(body) // 2):
        with pytest.raises(BadImage, match="the WEBP cannot be decoded"):
            imaging.prepare(webp(riff_chunk(kind, body[:keep])), 16)


def test_prepare_refuses_files_without_pixels() -> None:
    for bad in (webp(), webp(webp_header(41, 33, 0)), webp(riff_chunk(b"prvt", b"text")), EXIF):
        with pytest.raises(BadImage):
            imaging.prepare(bad, 16)


@pytest.mark.parametrize("size", [(0, 0), (0, 33), (41, 0)])
def test_open_image_refuses_a_size_of_zero(size: tuple[int, int]) -> None:
    body = bytearray(next(webps.chunks(encoded(PHOTO, "WEBP")))[1])
    body[6:10] = struct.pack("<HH", *size)
    with pytest.raises(BadImage):
        imaging.open_image(webp(riff_chunk(b"VP8 ", bytes(body))))


def test_prepare_refuses_too_many_pixels_before_decoding() -> None:
    data = lossless_webp(16_383, 16_383)
    assert len(data) == 34
    with pytest.raises(TooManyPixels, match="16383 x 16383 = 268,402,689 pixels"):
        imaging.prepare(data, 16)


@pytest.mark.parametrize(
    "claim",
    [webp_header(10, 10, 0), webp_header(10, 10, webps.ANIMATED), riff_chunk(b"VP8 ", b"text")],
    ids=["VP8X", "animation", "VP8"],
)
def test_prepare_is_not_deceived_by_a_smaller_claim(claim: bytes) -> None:
    large = riff_chunk(b"VP8L", lossless_webp_data(16_383, 16_383, (1, 2, 3, 4)))
    frame = bytes(6) + bytes([9, 0, 0, 9, 0, 0, 100, 0, 0, 0])
    for pixels_ in (large, riff_chunk(b"ANMF", frame + large)):
        with pytest.raises(BadImage):
            imaging.prepare(webp(claim, pixels_), 16)
