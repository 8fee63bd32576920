"""Files whose structure costs a decoder much: opened at once, and decoded or refused soon."""

import multiprocessing
import re
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import imaging
from imaging import BadImage
from loadtest.chaos.image_bombs import IMAGE_BOMBS, one_byte_exif
from tests.support.images import metadata

OPEN_SECONDS = 0.5  # a millisecond for each of 16 megabytes at most, and a busy machine
DECODE_SECONDS = 8.0
SLACK = 4 * 2**20  # for what Python and the allocator keep
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


def _memory(field: str) -> int:
    """Bytes: VmRSS is what this process has, VmHWM the most it had."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def _decode(bomb: str, results: Connection) -> None:
    """Send seconds to open and to decode, bytes taken, bytes announced, and the error if any."""
    data = IMAGE_BOMBS[bomb]()
    decode_seconds, taken, announced, error = 0.0, 0, 0, ""
    started = time.process_time()
    try:
        file = imaging.open_image(data)
    except BadImage as refusal:
        open_seconds, error = time.process_time() - started, str(refusal)
    else:
        open_seconds = time.process_time() - started
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
        before, announced = _memory("VmRSS"), file.memory(128)
        try:
            file.pixels(128)
        except BadImage as refusal:
            error = str(refusal)
        decode_seconds = time.process_time() - started - open_seconds
        taken = _memory("VmHWM") - before
    results.send((open_seconds, decode_seconds, taken, announced, error))


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(bomb, marks=[pytest.mark.slow] if bomb in TAKES_SECONDS else [])
        for bomb in IMAGE_BOMBS
    ],
)
def test_open_image_is_quick_and_pixels_bounded_for_every_bomb(bomb: str) -> None:
    """In a process of its own, which can be killed, and whose memory shows."""
    context = multiprocessing.get_context("fork")
    results, sender = context.Pipe(duplex=False)
    process = context.Process(target=_decode, args=(bomb, sender))
    process.start()
    sender.close()
    try:
        assert results.poll(60), "neither decoded nor refused"
        open_seconds, decode_seconds, taken, announced, error = results.recv()
    finally:
        process.kill()
        process.join()
    assert open_seconds < OPEN_SECONDS
    assert decode_seconds < DECODE_SECONDS
    assert taken < announced + SLACK
    assert REFUSED.get(bomb, "") in error


def test_prepare_is_not_disturbed_by_exif_in_pieces() -> None:
    """The standard has one segment; the pieces of one that was cut say nothing."""
    assert len(metadata.exif(6)) < 40
    assert imaging.prepare(one_byte_exif(40), 16).shape == (16, 16, 3)
