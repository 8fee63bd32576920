"""Files whose structure costs a decoder much: opened at once, and decoded or refused soon."""

import pytest

import imaging
from loadtest.chaos.image_bombs import IMAGE_BOMBS, one_byte_exif
from tests.support.images import metadata
from tests.support.images.decoding import SLACK, measure

OPEN_SECONDS = 0.5  # a millisecond for each of 16 megabytes at most, and a busy machine
DECODE_SECONDS = 8.0
REFUSED = {
    "progressive JPEG of 2,600 scans, 1 megapixel": "more scans",
    "progressive JPEG of 5,000 scans, 36 megapixels": "more scans",
    "progressive JPEG of 5,000 scans, 65,496 x 1": "more scans",
    "progressive JPEG of 5,000 scans, arithmetic": "arithmetic",
    "WebP of 16,383 x 16,383 in 34 bytes": "268,402,689 pixels",
}
TAKES_SECONDS = {
    "PNG of 36 megapixels, 16-bit RGBA",
    "PNG of 36 megapixels, interlaced",
    "WebP of 36 megapixels in 34 bytes",
    "WebP of 36 megapixels, lossy with alpha",
}


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(bomb, marks=[pytest.mark.slow] if bomb in TAKES_SECONDS else [])
        for bomb in IMAGE_BOMBS
    ],
)
def test_open_image_is_quick_and_pixels_bounded_for_every_bomb(bomb: str) -> None:
    """In a process of its own, which can be killed, and whose memory shows."""
    measured = measure(IMAGE_BOMBS[bomb])
    assert measured.open_seconds < OPEN_SECONDS
    assert measured.decode_seconds < DECODE_SECONDS
    assert measured.taken < measured.announced + SLACK
    assert REFUSED.get(bomb, "") in measured.error


def test_prepare_is_not_disturbed_by_exif_in_pieces() -> None:
    """The standard has one segment; the pieces of one that was cut say nothing."""
    assert len(metadata.exif(6)) < 40
    assert imaging.prepare(one_byte_exif(40), 16).shape == (16, 16, 3)
