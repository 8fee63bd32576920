"""A fuzzer that knows the formats: whole files in, files that are wrong in a deep place out.

A file is taken apart into segments or chunks, these are changed, and lengths, checksums and streams
are made right again, so that the change is not refused at the door.
"""

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from loadtest.chaos.image_parts import PNG_SIGNATURE, SOS, chunk, riff_chunk, webp
from tests.support.images import webps

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 63, 64, 127, 128, 254, 255)
SIZES = (0, 1, 2, 3, 7, 8, 9, 63, 64, 255, 256, 1000, 2**14 - 1, 2**14, 65_500, 65_535, 2**31 - 1)
MARKERS = (*range(0xC0, 0xD0), *range(0xD0, 0xF0), 0xFE, 0x01, 0xF7, 0xFF, 0x00)
CHUNKS = (
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"),
    *(b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"pHYs", b"sBIT", b"bKGD"),
    *(b"tIME", b"hIST", b"sPLT", b"CgBI", b"prVt", b"crIt"),
)
RIFF_CHUNKS = (
    *(b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"XMP ", b"ICCP", b"prvt"),
)


class Part(NamedTuple):
    """A segment or chunk. kind: of a JPEG's coded data, empty."""

    kind: bytes
    body: bytes


def mutated(seeds: Sequence[bytes], number: int) -> bytes:
    """The file that a number stands for: one of the seeds with one to four changes."""
    draw = random.Random(number)
    data = draw.choice(seeds)
    others = [seed for seed in seeds if seed[:4] == data[:4]]
    split, joined, kinds = _FORMATS[data[:2]]
    parts = split(data)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 4))):
        _change(parts, draw, split(draw.choice(others)), kinds)
    data = joined(parts, draw)
    return draw.choice((_unchanged,) * 7 + (_truncated, _with_noise, _with_flips))(data, draw)


def _change(
    parts: list[Part], draw: random.Random, donors: list[Part], kinds: Sequence[bytes]
) -> None:
    """One change of a part, or of the order of parts."""
    if not parts:
        return
    at, other = draw.randrange(len(parts)), draw.randrange(len(parts))
    change = draw.randrange(10)
    if change == 0:
        del parts[at]
    elif change == 1:
        parts[at:at] = [parts[other]] * draw.choice((1, 1, 2, 50))
    elif change == 2:
        parts[at], parts[other] = parts[other], parts[at]
    elif change == 3:
        parts[at:at] = [draw.choice(donors)]
    elif change == 4:
        parts[at] = parts[at]._replace(kind=draw.choice(kinds))
    else:
        parts[at] = parts[at]._replace(body=_changed_body(parts[at].body, draw))


def _changed_body(body: bytes, draw: random.Random) -> bytes:
    """A body with other numbers or bits, or with a change within the stream that it deflates."""
    stream = body.find(b"\x78")
    if stream >= 0 and draw.random() < 0.5:
        inflater = zlib.decompressobj()
        try:
            inflated = inflater.decompress(body[stream:], 2**20)
        except zlib.error:
            pass
        else:
            return body[:stream] + zlib.compress(_changed_body(inflated, draw), 1)
    return draw.choice((_with_number, _with_size, _with_flips, _with_noise, _truncated))(body, draw)


def _unchanged(data: bytes, draw: random.Random) -> bytes:
    return data


def _truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _with_number(data: bytes, draw: random.Random) -> bytes:
    """One byte changed, most likely one of the first."""
    if not data:
        return bytes([draw.choice(NUMBERS)])
    at = min(int(draw.expovariate(1 / 8)), len(data) - 1)
    return data[:at] + bytes([draw.choice(NUMBERS)]) + data[at + 1 :]


def _with_size(data: bytes, draw: random.Random) -> bytes:
    """Two or four bytes of a header changed to a size of note."""
    size = draw.choice(SIZES)
    at = draw.randrange(min(len(data), 16) + 1)
    field = struct.pack(
        draw.choice("<>") + ("I" if size > 65_535 or draw.random() < 0.4 else "H"), size
    )
    return data[:at] + field + data[at + len(field) :]


def _with_flips(data: bytes, draw: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20)) if data else 0):
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def _with_noise(data: bytes, draw: random.Random) -> bytes:
    """Some bytes replaced by others, more or fewer."""
    at, length = draw.randrange(len(data) + 1), draw.choice((0, 1, 2, 8, 40))
    noise = draw.choice((draw.randbytes(length), b"\xff" * length, bytes(length)))
    return data[:at] + noise + data[at + draw.choice((0, length, 8)) :]


def _jpeg_parts(data: bytes) -> list[Part]:
    """Segments after the first marker, and coded data up to the next marker that is none of it."""
    parts, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(Part(data[at : at + 2], data[at + 4 : at + 2 + length]))
        at += 2 + length
        if parts[-1].kind[1] == SOS:
            end = at
            while end < len(data) - 1 and (
                data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7
            ):
                end += 1
            parts.append(Part(b"", data[at:end]))
            at = end
    return [*parts, Part(b"", data[at:])]


def _jpeg(parts: list[Part], draw: random.Random) -> bytes:
    pieces = [b"\xff\xd8"]
    for kind, body in parts:
        length = len(body) + 2
        if draw.random() < 0.01:
            length = draw.choice((0, 1, 2, length - 1, length + 1, 65_535))
        pieces.append(kind + struct.pack(">H", length % 65_536) + body if kind else body)
    return b"".join(pieces)


def _png_parts(data: bytes) -> list[Part]:
    parts, at = [], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append(Part(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def _png(parts: list[Part], draw: random.Random) -> bytes:
    pieces = [PNG_SIGNATURE]
    for kind, body in parts:
        piece = chunk(kind, body, crc=0 if draw.random() < 0.02 else None)
        if draw.random() < 0.01:
            piece = struct.pack(">I", draw.choice((0, len(body) + 1, 2**31, 2**32 - 1))) + piece[4:]
        pieces.append(piece)
    return b"".join(pieces)


def _webp_parts(data: bytes) -> list[Part]:
    return [Part(kind, body) for kind, body in webps.chunks(data)]


def _webp(parts: list[Part], draw: random.Random) -> bytes:
    data = webp(*(riff_chunk(kind, body) for kind, body in parts))
    return _with_size(data, draw) if draw.random() < 0.05 else data


_Split = Callable[[bytes], list[Part]]
_Join = Callable[[list[Part], random.Random], bytes]
_FORMATS: dict[bytes, tuple[_Split, _Join, Sequence[bytes]]] = {
    b"\xff\xd8": (_jpeg_parts, _jpeg, [bytes([0xFF, marker]) for marker in MARKERS]),
    b"\x89P": (_png_parts, _png, CHUNKS),
    b"RI": (_webp_parts, _webp, RIFF_CHUNKS),
}
