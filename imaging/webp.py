"""WebP: one bounded walk over the RIFF chunks, then libwebp, through Pillow, on the pixels."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from imaging.colour import MAX_PROFILE_BYTES, on_white
from imaging.errors import BadImage, damaged
from imaging.exif import read_orientation
from imaging.source import Source

MAX_CHUNKS = 1000

_PIXELS = {b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
_ICC_FLAG, _ALPHA_FLAG, _EXIF_FLAG, _XMP_FLAG = 0x20, 0x10, 0x08, 0x04


@dataclass(frozen=True)
class WebpSource(Source):
    """See Source."""

    icc_profile: bytes | None

    @property
    def seconds(self) -> float:
        return 1.5e-8 * len(self.stream) + 3.5e-8 * self.width * self.height

    def memory(self, reduction: float) -> int:
        """Measured: libwebp's two canvases and Pillow's image."""
        bytes_per_pixel = 20 if reduction >= 2 else 32  # transparency is replaced at the full size
        return bytes_per_pixel * self.width * self.height

    def profile(self) -> bytes | None:
        """The content of ICCP, up to 4 MiB."""
        return self.icc_profile

    def decode(self, reduction: float) -> tuple[Image.Image, int]:
        """Reduced before transparency is replaced by white, at a fraction of the cost."""
        try:
            image = Image.open(io.BytesIO(self.stream), formats=("WEBP",))
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise damaged("WEBP") from error
        if image.mode != "RGBA":
            return image, 1
        factor = max(1, int(reduction))
        return on_white(image.reduce(factor) if factor > 1 else image), factor


def read(data: bytes) -> WebpSource:
    """Walk over a WebP. Raises BadImage."""
    size = None
    extended = exif = profile = None
    whole = memoryview(data)  # its slices are copied once, when they are joined
    pixels: list[bytes | memoryview] = []
    frames = 0
    for number, (kind, start, end) in enumerate(_chunks(data)):
        if number >= MAX_CHUNKS:
            raise damaged("WEBP", f"it has more than {MAX_CHUNKS:,} chunks")
        body = data[start : min(end, start + 16)]
        if kind in _PIXELS:
            pixels += [whole[start - 8 : end], b"\0" * (end - start & 1)]
            frames += kind == b"ANMF"
            size = size or _size(kind, body)
        elif kind == b"VP8X" and number == 0 and end - start >= 10:
            size, extended = _size(kind, body), data[start : start + 10]
        elif kind == b"EXIF":
            exif = exif or data[start:end]
        elif kind == b"ICCP" and end - start <= MAX_PROFILE_BYTES:
            profile = profile or data[start:end]
    if frames > 1:
        raise BadImage(f"the image has {frames} frames; send an image with one")
    if size is None or not pixels or 0 in size:
        raise damaged("WEBP", "it has no pixels")
    if extended is not None:
        flags = extended[0] & ~(_ICC_FLAG | _EXIF_FLAG | _XMP_FLAG)
        if frames:  # what the only frame does not cover is transparent
            flags |= _ALPHA_FLAG
        pixels.insert(0, _chunk(b"VP8X", bytes([flags]) + extended[1:]))
    size_of_content = 4 + sum(map(len, pixels))
    stream = b"".join([b"RIFF", struct.pack("<I", size_of_content), b"WEBP", *pixels])
    return WebpSource("WEBP", *size, stream, read_orientation(exif), profile)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type of each chunk, and where its body starts and ends.

    What lies behind the end that the RIFF header claims is ignored. Raises BadImage where the file
    ends before it.
    """
    at, total = 12, int.from_bytes(data[4:8], "little") + 8
    if total > len(data) + 1:  # some writers count a padding byte that they do not write
        raise damaged("WEBP", "truncated")
    while at + 8 <= total:
        start = at + 8
        end = start + int.from_bytes(data[at + 4 : start], "little")
        if end > len(data):
            raise damaged("WEBP", "truncated")
        yield data[at : at + 4], start, end
        at = end + (end - start & 1)


def _size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """Width and height in a chunk of this kind, in pixels; None if it says none."""
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
