"""A PNG encoder of every bit depth, colour type and interlace, and chunks to put into its files."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from loadtest.chaos.image_parts import ADAM7, chunk, png, png_header

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {  # what the standard allows
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGBA: (8, 16),
}
KINDS = [(colour_type, depth) for colour_type, depths in DEPTHS.items() for depth in depths]
Samples = NDArray[np.integer]


def encode(
    samples: Samples,
    colour_type: int,
    depth: int,
    *,
    interlace: bool = False,
    before: bytes = b"",
    after: bytes = b"",
    pieces: int = 1,
) -> bytes:
    """A PNG of samples [H, W, channels], each below 2^depth; its rows take turns in the filters.

    before, after: chunks around those with the pixels, which come in a number of pieces.
    """
    height, width = samples.shape[:2]
    steps = ADAM7 if interlace else ((0, 0, 1, 1),)
    raw = b"".join(b"".join(_filtered(samples[y::dy, x::dx], depth)) for x, y, dx, dy in steps)
    packed = zlib.compress(raw)
    step = -(-len(packed) // pieces)
    data = b"".join(chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step))
    return png(png_header(width, height, depth, colour_type, interlace), before, data, after)


def palette(colours: Samples) -> bytes:
    """The PLTE chunk of colours [N, 3]."""
    return chunk(b"PLTE", colours.astype(np.uint8).tobytes())


def transparent(*samples: int) -> bytes:
    """The tRNS chunk that makes one grey or RGB value transparent."""
    return chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))


def profile(icc: bytes) -> bytes:
    """The iCCP chunk."""
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(icc))


def text(kind: bytes, keyword: bytes, value: bytes) -> bytes:
    """A tEXt, zTXt or iTXt chunk; iTXt is compressed as well."""
    middle = {b"tEXt": b"\0", b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0"}[kind]
    return chunk(kind, keyword + middle + (value if kind == b"tEXt" else zlib.compress(value)))


def raw_exif(kind: bytes, exif: bytes) -> bytes:
    """EXIF as ImageMagick writes it, in hexadecimal in a text chunk."""
    data = b"Exif\0\0" + exif
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return text(kind, b"Raw profile type exif", f"\nexif\n{len(data):8}\n{lines}\n".encode())


def frames(count: int) -> bytes:
    """The acTL chunk of an animation."""
    return chunk(b"acTL", struct.pack(">II", count, 0))


def frame(number: int, width: int, height: int) -> bytes:
    """The fcTL chunk of a frame of full size."""
    fields = struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 10, 0, 0)
    return chunk(b"fcTL", fields)


def _filtered(samples: Samples, depth: int) -> Iterator[bytes]:
    """The bytes of each row, after its filter's type."""
    height, width, channels = samples.shape
    if not width:
        return
    step = max(1, channels * depth // 8)
    above = np.zeros(-(-width * channels * depth // 8), np.int64)
    for y in range(height):
        row = np.frombuffer(_packed(samples[y].ravel(), depth), np.uint8).astype(np.int64)
        left = np.concatenate([np.zeros(step, np.int64), row[:-step]])[: len(row)]
        corner = np.concatenate([np.zeros(step, np.int64), above[:-step]])[: len(row)]
        guess = left + above - corner
        distances = np.abs(np.stack([left, above, corner]) - guess)
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        predictions = (np.zeros_like(row), left, above, (left + above) // 2, paeth)
        yield bytes([y % 5]) + (row - predictions[y % 5]).astype(np.uint8).tobytes()
        above = row


def _packed(row: Samples, depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = "".join(f"{value:0{depth}b}" for value in row.tolist())
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
