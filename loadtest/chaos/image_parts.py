"""Segments and chunks, the parts of JPEG, PNG and WebP files: written as given, never checked."""

import struct
import zlib
from collections.abc import Iterable

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = (  # left, top, column step, row step of each pass of an interlaced PNG
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SOF0, SOF1, SOF2, SOF3 = 0xC0, 0xC1, 0xC2, 0xC3
SOF9, SOF10, SOF11, SOF55 = 0xC9, 0xCA, 0xCB, 0xF7  # three arithmetic ones, JPEG-LS
DHT, SOS, DQT, DRI, COM = 0xC4, 0xDA, 0xDB, 0xDD, 0xFE
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE


def segment(marker: int, body: bytes = b"") -> bytes:
    """A JPEG marker segment: 0xFF, the marker, the length, the body of at most 65,533 bytes."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def chunk(kind: bytes, body: bytes = b"", crc: int | None = None) -> bytes:
    """A PNG chunk; crc replaces the right checksum."""
    checksum = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png_header(width: int, height: int, depth: int, colour_type: int, interlace: int = 0) -> bytes:
    """The IHDR chunk."""
    fields = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlace)
    return chunk(b"IHDR", fields)


def png(*chunks: bytes) -> bytes:
    """The signature, the chunks and IEND."""
    return PNG_SIGNATURE + b"".join(chunks) + chunk(b"IEND")


def zlib_zeros(count: int) -> bytes:
    """A zlib stream of `count` zeros, made without deflating more than two megabytes."""

    def deflated(size: int, flush: int) -> bytes:
        packer = zlib.compressobj(9, wbits=-15)
        return packer.compress(bytes(size)) + packer.flush(flush)

    whole, rest = divmod(count, 2**20)
    # After a full flush a stream needs nothing that was before, so pieces can be repeated.
    pieces = deflated(2**20, zlib.Z_FULL_FLUSH) * whole + deflated(rest, zlib.Z_FINISH)
    return b"\x78\xda" + pieces + struct.pack(">HH", count % 65_521, 1)  # Adler-32 of zeros


def riff_chunk(kind: bytes, body: bytes = b"") -> bytes:
    """A chunk of a WebP file, padded to an even length."""
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def webp(*chunks: bytes) -> bytes:
    """A WebP file of these chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_header(width: int, height: int, flags: int) -> bytes:
    """The VP8X chunk. flags: 2 animation, 4 XMP, 8 EXIF, 16 alpha, 32 profile."""
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size)


def bits(fields: Iterable[tuple[int, int]]) -> bytes:
    """(value, number of bits) packed as VP8L does: least significant bit first."""
    packed, count = 0, 0
    for value, length in fields:
        packed |= value << count
        count += length
    return packed.to_bytes((count + 7) // 8, "little")


def lossless_webp_data(
    width: int, height: int, colour: tuple[int, int, int, int], header: bool = True
) -> bytes:
    """The body of a VP8L chunk of one colour (red, green, blue, alpha): no bit for any pixel.

    width, height: at most 16,384. header: an ALPH chunk has none.
    """
    red, green, blue, alpha = colour
    fields = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (alpha < 255, 1), (0, 3)]
    fields = fields if header else []
    fields += [(0, 1), (0, 1), (0, 1)]  # no transform, no colour cache, one set of codes
    for symbol in (green, red, blue, alpha, 0):
        fields += [(1, 1), (0, 1), (1, 1), (symbol, 8)]  # a code of one symbol of eight bits
    return bits(fields)
