"""JPEG: one bounded walk over the segments and scans, then libjpeg-turbo on what makes pixels.

The walk keeps tables, frame header and scans, and writes them down again in order. Remarks that
decoders only stumble over (broken JFIF and Adobe segments, stray bytes, ICC segments numbered in
another way) never reach one. What loses pixels still does, and is refused: libjpeg-turbo runs in
the mode where each of its warnings is an error.

Decoding a progressive file visits every block once for every scan that holds it. The walk counts
these visits, because a file of 64 KB can ask for thousands of scans.
"""

import io
import re
import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from imaging.colour import MAX_PROFILE_BYTES, profile_size
from imaging.errors import damaged, unsupported
from imaging.exif import read_orientation
from imaging.source import Source

MAX_SEGMENTS = 1024
MAX_STRAY_BYTES = 64 * 2**10  # between segments, in sum: fill bytes and garbage
MAX_SCANS = 100
# Visits of all blocks that scans may add up to; encoders' progressive files need about 6.
MAX_VISITS_PER_BLOCK = 12
# Baseline only: 256 x 256 pixels without chroma subsampling, or 362 x 362 with it.
QUICK_BLOCKS, QUICK_BYTES, QUICK_PROFILE_BYTES = 3072, 64 * 2**10, 4096
# Stray bytes in front of the end mark. Bytes that a damaged scan left over look the same, but they
# are many and differ.
MAX_LEFTOVER_BYTES = 8
MAX_CUTS = 3  # libjpeg reads ahead, so it does not count all of them at once

_SOI, _EOI, _SOS, _DHT, _DQT, _DRI = 0xD8, 0xD9, 0xDA, 0xC4, 0xDB, 0xDD
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_SEQUENTIAL, _PROGRESSIVE, _LOSSLESS, _LS_FRAME = {0xC0, 0xC1}, 0xC2, 0xC3, 0xF7
_FRAMES = set(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_TABLES = {_DHT, _DQT, _DRI}
_WHOLE_SPECTRUM = bytes([0, 63, 0])  # of a scan; all that sequential files have
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_START, _END = b"\xff\xd8", b"\xff\xd9"
_JFIF = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0"  # its transform follows
# Sampling factors of luma, where those of chroma are 1 x 1. Images of others are decoded at full
# size: libjpeg scales their chroma too far in one direction, and TurboJPEG refuses most of them.
_USUAL_SAMPLING = {(1, 1), (2, 1), (1, 2), (2, 2)}
_UNUSUAL_SAMPLING = "subsampling level"  # in TurboJPEG's error
_LEFTOVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
# By number of components: what TurboJPEG writes, and the mode of Pillow that takes it uncopied.
_COLOURS = {1: "GRAY", 3: "RGBX", 4: "CMYK"}
_MODES = {1: "L", 3: "RGBX", 4: "CMYK"}
_BYTES_PER_PIXEL = {1: 3, 3: 8, 4: 14}
# By the byte behind 0xff: whether the two end entropy-coded data.
_ENDS_SCAN = np.array([byte not in (0, 0xFF, *range(0xD0, 0xD8)) for byte in range(256)])
_SMALLEST_CHUNK, _LARGEST_CHUNK = 64 * 2**10, 2**20


@dataclass(frozen=True)
class _Component:
    id: int
    horizontal: int  # sampling factors
    vertical: int
    blocks: int  # of 8 x 8 pixels


@dataclass(frozen=True)
class _Frame:
    marker: int
    width: int
    height: int
    components: tuple[_Component, ...]

    @property
    def blocks(self) -> int:
        return sum(component.blocks for component in self.components)

    @property
    def has_usual_sampling(self) -> bool:
        first, *others = ((c.horizontal, c.vertical) for c in self.components)
        return not others or (first in _USUAL_SAMPLING and set(others[:2]) == {(1, 1)})


@dataclass(frozen=True)
class JpegSource(Source):
    """See Source. visits: how often scans visit a block, summed over all blocks. first_scan: where
    the entropy-coded data of the first scan begins in the stream."""

    frame: _Frame
    visits: int
    scans: int
    first_scan: int
    icc_segments: tuple[tuple[int, bytes], ...]

    @property
    def seconds(self) -> float:
        blocks, size = self.frame.blocks, len(self.stream)
        if self._keeps_coefficients:
            return 5e-8 * size + 3e-7 * blocks + 2e-8 * self.visits
        return 1e-8 * size + 1e-7 * blocks

    def memory(self, reduction: float) -> int:
        """Measured: twice the decoded pixels, and coefficients of 16 bits."""
        width, height = self._scaled_size(_scale(reduction) if self._can_scale else 1)
        coefficients = 128 * self.frame.blocks if self._keeps_coefficients else 0
        return _BYTES_PER_PIXEL[len(self.frame.components)] * width * height + coefficients

    @property
    def quick(self) -> bool:
        return (
            self.frame.marker in _SEQUENTIAL
            and not self._keeps_coefficients
            and self.frame.has_usual_sampling
            and self.frame.blocks <= QUICK_BLOCKS
            and len(self.stream) <= QUICK_BYTES
            and sum(len(data) for _, data in self.icc_segments) <= QUICK_PROFILE_BYTES
        )

    @property
    def _keeps_coefficients(self) -> bool:
        return self.frame.marker == _PROGRESSIVE or self.scans > 1

    def profile(self) -> bytes | None:
        """The ICC segments in the order of their numbers; of equal numbers the first counts."""
        parts: dict[int, bytes] = {}
        for number, data in self.icc_segments:
            parts.setdefault(number, data)
        profile = b"".join(data for _, data in sorted(parts.items()))
        size = profile_size(profile)
        return profile[:size] if 0 < size <= len(profile) else None

    def decode(self, reduction: float) -> tuple[Image.Image, int]:
        """Scaled in the DCT domain by 8, 4 or 2, where that leaves twice the pixels needed."""
        scale = _scale(reduction)
        if scale > 1 and not self._can_scale:
            return self._decode(self.stream, 1).reduce(scale), scale
        return self._decode(self.stream, scale), scale

    @property
    def _can_scale(self) -> bool:
        return self.frame.has_usual_sampling and self.frame.marker != _LOSSLESS

    def _scaled_size(self, scale: int) -> tuple[int, int]:
        return -(-self.width // scale), -(-self.height // scale)

    def _decode(self, stream: bytes, scale: int, cuts: int = 0) -> Image.Image:
        components = len(self.frame.components)
        width, height = self._scaled_size(scale)
        try:
            # Three times as fast as Pillow, with the same arithmetic.
            pixels = simplejpeg.decode_jpeg(
                stream, _COLOURS[components], min_width=width, min_height=height, strict=True
            )
        except ValueError as error:
            if _UNUSUAL_SAMPLING in str(error):
                return self._decode_unusual()
            leftover = _LEFTOVER.search(str(error))
            if leftover is None or cuts == MAX_CUTS:
                raise damaged("JPEG") from error
            # Stray bytes in front of the end mark lose nothing, see MAX_LEFTOVER_BYTES.
            end = stream.find(_END, self.first_scan) if self.scans == 1 else len(stream) - 2
            stray = stream[end - int(leftover[1]) : end]
            if len(stray) > MAX_LEFTOVER_BYTES and len(set(stray)) > 1:
                raise damaged("JPEG") from error
            return self._decode(stream[: end - len(stray)] + _END, scale, cuts + 1)
        if components == 4:  # Adobe stores it inverted
            np.subtract(255, pixels, out=pixels)
        height, width = pixels.shape[:2]
        return Image.frombuffer(_MODES[components], (width, height), pixels)

    def _decode_unusual(self) -> Image.Image:
        """Decode sampling factors that TurboJPEG refuses, such as 4:1:0.

        Pillow ignores libjpeg's warnings, so damage inside a scan goes unnoticed here. A missing
        end does not: the walk has seen it.
        """
        try:
            image = Image.open(io.BytesIO(self.stream), formats=("JPEG",))
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise damaged("JPEG") from error
        return image


def _scale(reduction: float) -> int:
    return next((n for n in (8, 4, 2) if 2 * n <= reduction), 1)


def read(data: bytes) -> JpegSource:
    """Walk over a JPEG. Raises BadImage, UnsupportedFormat."""
    return _Walk(data).run()


class _Walk:
    """State of the walk over one file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 2
        self._segments = self._stray_bytes = 0
        self._tables: list[bytes] = []  # and the frame header
        self._frame: _Frame | None = None
        self._has_jfif = False
        self._transform: int | None = None  # Adobe's colour transform
        self._exif: bytes | None = None
        self._icc: list[tuple[int, bytes]] = []

    def run(self) -> JpegSource:
        while (segment := self._next_segment())[0] != _SOS:
            self._keep(*segment)
        if self._frame is None:
            raise damaged("JPEG", "its first scan comes before the size of the image")
        header = [_START, *self._colour_segments(len(self._frame.components)), *self._tables]
        scans, count, visits = self._read_scans(self._frame, segment[1])
        parts = [*header, *scans, _END]
        return JpegSource(
            "JPEG",
            self._frame.width,
            self._frame.height,
            b"".join(parts),
            read_orientation(self._exif),
            self._frame,
            visits,
            count,
            sum(map(len, parts[: len(header) + 1])),
            tuple(self._icc),
        )

    def _next_segment(self) -> tuple[int, bytes]:
        """The marker and the body of the next segment; the body of an end mark is empty."""
        while True:
            limit = self._at + MAX_STRAY_BYTES - self._stray_bytes
            found = _MARKER.search(self._data, self._at, limit)
            self._segments += 1
            if found is None or self._segments > MAX_SEGMENTS:
                raise damaged("JPEG", "truncated, damaged, or of more than 1,024 segments")
            self._stray_bytes += found.end() - 2 - self._at
            self._at, marker = found.end(), found[1][0]
            if marker == _EOI:
                return marker, b""
            if marker in _STANDALONE:
                continue
            size = int.from_bytes(self._data[self._at : self._at + 2], "big")
            body = self._data[self._at + 2 : self._at + size]
            if marker == _SOI or len(body) != size - 2:
                raise damaged("JPEG")
            self._at += size
            return marker, body

    def _keep(self, marker: int, body: bytes) -> None:
        """Keep what a segment in front of the first scan says about the pixels."""
        if marker in _TABLES:
            self._tables.append(_segment(marker, body))
        elif marker in _FRAMES:
            if self._frame is not None:
                raise damaged("JPEG", "it says its size twice")
            self._frame = _read_frame(marker, body)
            self._tables.append(_segment(marker, body))
        elif marker == _EOI:
            raise damaged("JPEG", "it ends before its first scan")
        elif marker == _LS_FRAME:
            raise unsupported("JPEG-LS")
        elif marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 14:
            self._has_jfif = True
        elif marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            self._transform = body[11]
        elif marker == _APP1 and body.startswith(b"Exif\0") and self._exif is None:
            self._exif = body
        elif (
            marker == _APP2
            and body.startswith(b"ICC_PROFILE\0")
            and len(body) > 14
            and sum(len(data) for _, data in self._icc) < MAX_PROFILE_BYTES
        ):
            self._icc.append((body[12], body[14:]))

    def _colour_segments(self, components: int) -> list[bytes]:
        """What decoders infer the colour space from, as the standards write it."""
        segments = [_JFIF] if self._has_jfif else []
        if self._transform is not None and components >= 3:
            ycc = 1 if components == 3 else 2
            segments.append(_ADOBE + bytes([ycc if self._transform else 0]))
        return segments

    def _read_scans(self, frame: _Frame, body: bytes) -> tuple[list[bytes | memoryview], int, int]:
        """The parts that hold pixels, the number of scans, and the visits of blocks."""
        whole = memoryview(self._data)  # its slices are copied once, when they are joined
        parts: list[bytes | memoryview] = []
        missing = {component.id for component in frame.components}
        scans = visits = 0
        marker = _SOS
        while marker != _EOI:
            if marker in _TABLES:
                parts.append(_segment(marker, body))
            elif marker == _SOS:
                scans += 1
                ids = set(body[1 : 2 * body[0] : 2]) if body else set()
                visits += sum(c.blocks for c in frame.components if c.id in ids)
                if scans > MAX_SCANS or visits > MAX_VISITS_PER_BLOCK * frame.blocks:
                    raise damaged("JPEG", "it has more scans than an image of its size needs")
                if frame.marker in _SEQUENTIAL:
                    body = body[:-3] + _WHOLE_SPECTRUM
                missing -= ids
                if frame.marker in _SEQUENTIAL and not missing and self._data.endswith(_END):
                    end = len(self._data) - 2  # decoders stop at the first end mark anyway
                else:
                    end = self._end_of_scan()
                parts += [_segment(_SOS, body), whole[self._at : end]]
                self._at = end
                if frame.marker != _PROGRESSIVE and not missing:
                    break  # decoders would read what follows, and use nothing of it
            marker, body = self._next_segment()
        if missing:
            raise damaged("JPEG", "a scan is missing")
        return parts, scans, visits

    def _end_of_scan(self) -> int:
        """Position of the marker behind the entropy-coded data that begins here.

        In this data 0xff is followed by 0 or is a restart marker. Raises BadImage at the file's
        end, because a whole file has an end mark.
        """
        data, at, size = np.frombuffer(self._data, np.uint8), self._at, _SMALLEST_CHUNK
        while at < len(data) - 1:
            chunk = data[at : at + size + 1]
            places = np.flatnonzero(chunk[:-1] == 0xFF)
            is_marker = _ENDS_SCAN[chunk[places + 1]]
            if is_marker.any():
                return at + int(places[is_marker.argmax()])
            at, size = at + size, min(2 * size, _LARGEST_CHUNK)
        raise damaged("JPEG", "truncated")


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _read_frame(marker: int, body: bytes) -> _Frame:
    """Raises UnsupportedFormat for kinds of JPEG that browsers do not show either."""
    if marker >= 0xC9:
        raise unsupported("a JPEG with arithmetic coding")
    if marker > _LOSSLESS:
        raise unsupported("a hierarchical JPEG")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise damaged("JPEG")
    precision, height, width, count = struct.unpack_from(">BHHB", body)
    if precision != 8:
        raise unsupported(f"a JPEG of {precision} bits")
    if count not in _MODES or (marker == _LOSSLESS and count > 1):
        kind = "lossless JPEG" if marker == _LOSSLESS else "JPEG"
        raise unsupported(f"a {kind} with {count} components")
    factors = [(body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, len(body), 3)]
    if not (width and height and all(1 <= h <= 4 and 1 <= v <= 4 for _, h, v in factors)):
        raise damaged("JPEG", "its header has a size or a sampling factor of 0 or above 4")
    largest_h, largest_v = max(h for _, h, _ in factors), max(v for _, _, v in factors)
    if any(largest_h % h or largest_v % v for _, h, v in factors):
        raise unsupported("a JPEG with fractional sampling factors")
    columns, rows = -(-width // (8 * largest_h)), -(-height // (8 * largest_v))
    components = tuple(_Component(id, h, v, columns * h * rows * v) for id, h, v in factors)
    return _Frame(marker, width, height, components)
