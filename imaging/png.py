"""PNG: one bounded walk over the chunks, then Pillow on those that make pixels.

Kept are IHDR, PLTE, tRNS and IDAT. Profile and EXIF are read apart; text, times and everything else
never reach a decoder. gAMA, cHRM, sRGB and cICP are ignored: the pixels are taken as sRGB, as
Pillow, OpenCV and libvips take them, so that tokens agree with what training tools read.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imaging.colour import MAX_PROFILE_BYTES, PROFILE_HEADER_BYTES, on_white, profile_size
from imaging.errors import BadImage, damaged
from imaging.exif import decode_raw_profile, read_orientation
from imaging.source import Source

MAX_METADATA_CHUNKS = 1000
MAX_CHUNKS_PER_MEBIBYTE = 512  # libpng writes 128, others 1 for each row of pixels
MAX_EXIF_BYTES = 128 * 2**10  # the orientation stands near the front

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {
    _GREY: {1, 2, 4, 8, 16},
    _RGB: {8, 16},
    _PALETTE: {1, 2, 4, 8},
    _GREY_ALPHA: {8, 16},
    _RGBA: {8, 16},
}
_PIXELS = {b"PLTE", b"IDAT", b"IEND"}
_METADATA = {b"tRNS", b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt"}
_BYTES_PER_PIXEL = {_GREY: 3, _RGB: 6, _PALETTE: 6, _GREY_ALPHA: 10, _RGBA: 10}
_BYTES_PER_ROW = 64  # a pointer in each of Pillow's images
_RAW_EXIF = {b"Raw profile type exif", b"Raw profile type APP1"}


@dataclass(frozen=True)
class PngSource(Source):
    """See Source. depth: bits of a sample. colour: PNG's colour type. transparent: tRNS."""

    depth: int
    colour: int
    transparent: bytes | None
    compressed_profile: bytes | None

    @property
    def seconds(self) -> float:
        samples = _SAMPLES[self.colour] * (2 if self.depth == 16 else 1)
        return 1e-8 * len(self.stream) + 7e-9 * self.width * self.height * samples

    def memory(self, reduction: float) -> int:
        """Measured: Pillow's image and its copies with and without alpha."""
        bytes_per_pixel = _BYTES_PER_PIXEL[self.colour]
        if self.transparent is not None:
            bytes_per_pixel += 10
        if self.depth == 16 and self.colour in (_GREY, _RGB):
            bytes_per_pixel += 6 if self.transparent is None else 14
        has_alpha = self.colour in (_GREY_ALPHA, _RGBA) or self.transparent is not None
        if has_alpha and reduction < 2:
            bytes_per_pixel += 12  # transparency is replaced at the full size
        return bytes_per_pixel * self.width * self.height + _BYTES_PER_ROW * self.height

    def profile(self) -> bytes | None:
        """The profile in iCCP, if it is whole and has at most 4 MiB; no more is inflated."""
        if self.compressed_profile is None:
            return None
        _, _, compressed = self.compressed_profile.partition(b"\0")  # behind its name
        size = profile_size(_inflate(compressed[1:], PROFILE_HEADER_BYTES))
        profile = _inflate(compressed[1:], size) if size else b""
        return profile if size and len(profile) == size else None

    def decode(self, reduction: float) -> tuple[Image.Image, int]:
        """Reduced before transparency is replaced by white, at a fraction of the cost."""
        self._check_checksums()
        image = self._with_alpha(self._load())
        if image.mode not in ("LA", "RGBA"):
            return image, 1
        factor = max(1, int(reduction))
        return on_white(image.reduce(factor) if factor > 1 else image), factor

    def _load(self, rawmode: str | None = None) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(self.stream), formats=("PNG",))
            if rawmode is not None:
                image.tile = [tile._replace(args=rawmode) for tile in image.tile]
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise damaged("PNG") from error
        return image

    def _with_alpha(self, image: Image.Image) -> Image.Image:
        """To mode L, LA, RGB or RGBA, with tRNS as alpha."""
        if self.colour == _PALETTE:
            return image.convert("RGB" if self.transparent is None else "RGBA")
        if self.depth == 1:
            image = image.convert("L")
        is_grey_16 = self.colour == _GREY and self.depth == 16
        if self.transparent is None and not is_grey_16:
            return image
        pixels = np.asarray(image)
        if is_grey_16:
            # Pillow's own conversion clips instead of scaling.
            image = Image.fromarray((pixels >> 8).astype(np.uint8))
        if self.transparent is None:
            return image
        samples = struct.unpack(f">{len(self.transparent) // 2}H", self.transparent)
        if self.colour == _GREY:
            opaque = pixels != samples[0] * (1 if self.depth >= 8 else 255 // (2**self.depth - 1))
        else:
            if self.depth == 16:
                # This rawmode is meant for another byte order: it takes the lower byte of each.
                lower = np.asarray(self._load("RGB;16L"))
                pixels = pixels.astype(np.uint16) << 8 | lower
            differs = [pixels[..., i] != sample for i, sample in enumerate(samples)]
            opaque = np.logical_or.reduce(differs)
        image.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
        return image

    def _check_checksums(self) -> None:
        # Pillow checks those of the header and the palette alone.
        for kind, start, end in _chunks(self.stream):
            if kind == b"IDAT" and not _is_intact(self.stream, start, end):
                raise damaged("PNG", "a checksum is wrong")


def read(data: bytes) -> PngSource:
    """Walk over a PNG. Raises BadImage."""
    if not data.startswith(_SIGNATURE):
        raise damaged("PNG")
    chunks = _chunks(data)
    kind, start, end = next(chunks, (b"", 0, 0))
    if kind != b"IHDR" or end - start != 13:
        raise damaged("PNG", "it does not begin with its header")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, start)
    if not (width and height and depth in _DEPTHS.get(colour, ())):
        raise damaged("PNG", "its header has a size, depth or colour type that PNG does not know")
    whole = memoryview(data)  # its slices are copied once, when they are joined
    kept: list[bytes | memoryview] = [_SIGNATURE, _whole(whole, start, end)]
    pixels: list[memoryview] = []
    palette = transparent = exif = profile = None
    most = MAX_METADATA_CHUNKS + len(data) * MAX_CHUNKS_PER_MEBIBYTE // 2**20
    metadata = 0
    for count, (kind, start, end) in enumerate(chunks):
        metadata += kind not in _PIXELS
        if count > most or metadata > MAX_METADATA_CHUNKS:
            raise damaged("PNG", "it has more chunks than an image of its size needs")
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            pixels.append(_whole(whole, start, end))
        elif kind == b"PLTE":
            palette = palette or _whole(whole, start, end)
        elif kind == b"acTL" and end - start == 8 and not pixels:
            frames = int.from_bytes(data[start : start + 4], "big")
            if frames > 1:
                raise BadImage(f"the image has {frames} frames; send an image with one")
        elif (
            kind in _METADATA and end - start <= MAX_PROFILE_BYTES and _is_intact(data, start, end)
        ):
            body = data[start:end]
            if kind == b"tRNS":
                transparent = transparent or body
            elif kind == b"iCCP":
                profile = profile or body
            else:
                exif = exif or (body if kind == b"eXIf" else _exif_in_text(kind, body))
    if not pixels or (colour == _PALETTE and palette is None):
        raise damaged("PNG", "it has no pixels, or no palette for them")
    if colour == _PALETTE:
        kept.append(palette or b"")
        if transparent:
            kept.append(_chunk(b"tRNS", transparent[:256]))
    elif len(transparent or b"") != 2 * _SAMPLES[colour] or colour not in (_GREY, _RGB):
        transparent = None
    stream = b"".join([*kept, *pixels, _chunk(b"IEND", b"")])
    orientation = read_orientation(exif)
    return PngSource("PNG", width, height, stream, orientation, depth, colour, transparent, profile)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type of each chunk, and where its body starts and ends. Raises BadImage at a cut one."""
    at, total = len(_SIGNATURE), len(data)
    while at < total:
        start = at + 8
        end = start + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > total:
            raise damaged("PNG", "truncated")
        yield data[at + 4 : start], start, end
        at = end + 4


def _whole(data: memoryview, start: int, end: int) -> memoryview:
    """A chunk with its length, type and checksum."""
    return data[start - 8 : end + 4]


def _is_intact(data: bytes, start: int, end: int) -> bool:
    checksum = int.from_bytes(data[end : end + 4], "big")
    return zlib.crc32(memoryview(data)[start - 4 : end]) == checksum


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def _exif_in_text(kind: bytes, body: bytes) -> bytes | None:
    """EXIF that ImageMagick and others write into tEXt, zTXt or iTXt, as hex digits."""
    keyword, _, rest = body.partition(b"\0")
    if keyword not in _RAW_EXIF:
        return None
    if kind == b"zTXt":
        text = _inflate(rest[1:], MAX_EXIF_BYTES)
    elif kind == b"iTXt":
        is_compressed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        text = _inflate(text, MAX_EXIF_BYTES) if is_compressed else text
    else:
        text = rest
    return decode_raw_profile(text[:MAX_EXIF_BYTES])


def _inflate(data: bytes, limit: int) -> bytes:
    """The first `limit` bytes at most; nothing where the data is damaged."""
    try:
        return zlib.decompressobj().decompress(data, limit)
    except zlib.error:
        return b""
