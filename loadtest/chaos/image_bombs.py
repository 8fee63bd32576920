"""Files whose structure costs a decoder much time or memory, each within the largest message.

Some are whole images and may be decoded, others are damaged or unsupported and may be refused;
either way soon.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from loadtest.chaos.image_parts import (
    ADAM7,
    APP1,
    COM,
    DHT,
    DQT,
    EOI,
    SOF2,
    SOF10,
    SOI,
    SOS,
    chunk,
    lossless_webp_data,
    png,
    png_header,
    riff_chunk,
    segment,
    webp,
    webp_header,
    zlib_zeros,
)

MIB = 2**20
GREY, RGB, RGBA = 0, 2, 6  # colour types of PNG
LONGEST_RUN = 2**15 - 1  # of blocks without coefficients, in one symbol of a progressive JPEG


def many_scans(
    width: int, height: int, scans: int, components: int = 3, arithmetic: bool = False
) -> bytes:
    """A grey progressive JPEG of a number of scans, each of a few bytes and without any change.

    Up to 882 scans per component follow the standard; more repeat the last one, so that decoders
    warn. With arithmetic coding, the scans have no data and decoders warn as well.
    """
    frame = struct.pack(">BHHB", 8, height, width, components)
    frame += b"".join(bytes([1 + i, 0x11, 0]) for i in range(components))
    dc_table = b"\x00" + bytes([1, *[0] * 15]) + b"\x00"
    runs = bytes(run << 4 for run in range(15))  # the symbols EOB0 to EOB14, 4 bits each
    ac_table = b"\x10" + bytes([0, 0, 0, 15, *[0] * 12]) + runs
    blocks = -(-width // 8) * -(-height // 8)
    nothing = b"" if arithmetic else _runs(blocks)
    parts = [
        SOI,
        segment(DQT, b"\x00" + bytes([1] * 64)),
        segment(SOF10 if arithmetic else SOF2, frame),
        *([] if arithmetic else [segment(DHT, dc_table + ac_table)]),
        segment(SOS, _scan(list(range(components)), 0, 0, 0, 0)),
        b"" if arithmetic else bytes((blocks * components + 7) // 8),
    ]
    for component, band, high, low in _progression(components, scans - 1):
        parts += [segment(SOS, _scan([component], band, band, high, low)), nothing]
    return b"".join([*parts, EOI])


def _progression(components: int, scans: int) -> Iterator[tuple[int, int, int, int]]:
    """(component, coefficient, Ah, Al) of each scan: each bit of each coefficient in its own."""
    order = [
        (component, band, 0 if low == 13 else low + 1, low)
        for low in range(13, -1, -1)
        for band in range(1, 64)
        for component in range(components)
    ]
    for i in range(scans):
        yield order[min(i, len(order) - 1)]


def _scan(components: list[int], start: int, end: int, high: int, low: int) -> bytes:
    tables = b"".join(bytes([1 + component, 0]) for component in components)
    return bytes([len(components)]) + tables + bytes([start, end, high << 4 | low])


def _runs(blocks: int) -> bytes:
    """Huffman-coded ends of bands for this number of blocks."""
    fields = ""
    while blocks:
        exponent = min(blocks, LONGEST_RUN).bit_length() - 1
        rest = min(blocks, LONGEST_RUN) - (1 << exponent)
        fields += f"{exponent:04b}" + (f"{rest:0{exponent}b}" if exponent else "")
        blocks -= (1 << exponent) + rest
    fields += "1" * (-len(fields) % 8)
    data = int(fields, 2).to_bytes(len(fields) // 8, "big")
    return data.replace(b"\xff", b"\xff\x00")


def jpeg_with(inserted: bytes, width: int = 64, height: int = 48) -> bytes:
    """A JPEG with bytes inserted right after its first marker."""
    return SOI + inserted + _encoded(Image.new("RGB", (width, height), "teal"), "JPEG")[2:]


def one_byte_exif(count: int) -> bytes:
    """A JPEG whose EXIF comes in segments of one byte each; readers join them one by one."""
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif += bytes(max(0, count - len(exif)))
    return jpeg_with(b"".join(segment(APP1, b"Exif\0\0" + exif[i : i + 1]) for i in range(count)))


def png_with(inserted: bytes, width: int = 64, height: int = 48) -> bytes:
    """A grey PNG with chunks inserted before its pixels."""
    pixels = zlib.compress(bytes((width + 1) * height))
    return png(png_header(width, height, 8, GREY), inserted, chunk(b"IDAT", pixels))


def png_chain(kind: bytes, count: int, body: bytes | None = None) -> bytes:
    """A PNG with many chunks of a kind, each with a small text or profile of its own."""
    return png_with(chunk(kind, body_of(kind) if body is None else body) * count)


def body_of(kind: bytes, inflated: bytes = b"text") -> bytes:
    """The body of an iCCP, tEXt, zTXt, iTXt, eXIf or other ancillary chunk."""
    packed = zlib.compress(inflated, 9)
    bodies = {
        b"iCCP": b"profile\0\0" + packed,
        b"tEXt": b"Comment\0" + inflated,
        b"zTXt": b"Comment\0\0" + packed,
        b"iTXt": b"Comment\0\1\0\0\0" + packed,
    }
    return bodies.get(kind, inflated)


def zlib_bomb(kind: bytes, inflated: int) -> bytes:
    """A PNG whose iCCP, zTXt or iTXt chunk inflates to a number of zeros, a thousand times it."""
    name = body_of(kind, b"").removesuffix(zlib.compress(b"", 9))
    return png_with(chunk(kind, name + zlib_zeros(inflated)))


def black_png(width: int, height: int, depth: int = 16, interlace: int = 0) -> bytes:
    """A black, transparent RGBA PNG."""
    sizes = [(width, height)]
    if interlace:
        sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in ADAM7]
    raw = sum((1 + columns * depth // 2) * rows for columns, rows in sizes if columns)
    header = png_header(width, height, depth, RGBA, interlace)
    return png(header, chunk(b"IDAT", zlib_zeros(raw)))


def lossless_webp(width: int, height: int, alpha: int = 128) -> bytes:
    """A WebP of 34 bytes: one colour, without a bit for any pixel."""
    data = lossless_webp_data(width, height, (200, 100, 50, alpha))
    return webp(riff_chunk(b"VP8L", data))


def lossy_webp_with_alpha(width: int, height: int) -> bytes:
    """A grey lossy WebP with a transparency of a few bytes."""
    image = _encoded(Image.new("RGB", (width, height), "grey"), "WEBP", method=0, quality=1)
    alpha = b"\x01" + lossless_webp_data(width, height, (0, 128, 0, 0), header=False)
    # Its chunks begin after "RIFF", a length and "WEBP".
    return webp(webp_header(width, height, 16), riff_chunk(b"ALPH", alpha), image[12:])


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# Name -> builder. Some take a second, so they are built when wanted.
IMAGE_BOMBS: dict[str, Callable[[], bytes]] = {
    "progressive JPEG of 2,600 scans, 1 megapixel": lambda: many_scans(1000, 1000, 2600),
    "progressive JPEG of 5,000 scans, 36 megapixels": lambda: many_scans(6000, 6000, 5000),
    "progressive JPEG of 5,000 scans, 65,496 x 1": lambda: many_scans(65_496, 1, 5000),
    "progressive JPEG of 5,000 scans, arithmetic": lambda: many_scans(
        6000, 6000, 5000, arithmetic=True
    ),
    "progressive JPEG of 57 scans, 36 megapixels": lambda: many_scans(6000, 6000, 57),
    "progressive JPEG of 36 megapixels": lambda: many_scans(6000, 6000, 2),
    "progressive CMYK JPEG of 36 megapixels": lambda: many_scans(6000, 6000, 2, components=4),
    "JPEG with 100,000 EXIF segments of a byte": lambda: one_byte_exif(100_000),
    "JPEG with 1,000,000 EXIF segments of a byte": lambda: one_byte_exif(1_000_000),
    "JPEG with 3,000,000 comments": lambda: jpeg_with(segment(COM) * 3_000_000),
    "JPEG with 15 MB of fill bytes": lambda: jpeg_with(b"\xff" * 15_000_000),
    "JPEG with 15 MB between segments": lambda: jpeg_with(b"\0" * 15_000_000),
    "JPEG of 65,496 x 1": lambda: jpeg_with(b"", 65_496, 1),
    "JPEG of 1 x 65,496": lambda: jpeg_with(b"", 1, 65_496),
    "PNG with 10,000 iCCP chunks": lambda: png_chain(b"iCCP", 10_000),
    "PNG with 10,000 zTXt chunks": lambda: png_chain(b"zTXt", 10_000),
    "PNG with 10,000 iTXt chunks": lambda: png_chain(b"iTXt", 10_000),
    "PNG with 300,000 zTXt chunks": lambda: png_chain(b"zTXt", 300_000),
    "PNG with 1,000,000 empty IDAT chunks": lambda: png_chain(b"IDAT", 1_000_000, b""),
    "PNG with 1,000,000 unknown chunks": lambda: png_chain(b"prVt", 1_000_000),
    "PNG whose profile inflates to 4 GB": lambda: zlib_bomb(b"iCCP", 4096 * MIB),
    "PNG whose text inflates to 4 GB": lambda: zlib_bomb(b"zTXt", 4096 * MIB),
    "PNG of 36 megapixels, 16-bit RGBA": lambda: black_png(6000, 6000),
    "PNG of 36 megapixels, interlaced": lambda: black_png(6000, 6000, interlace=1),
    "PNG of 36,000,000 x 1": lambda: black_png(36_000_000, 1, 8),
    "PNG of 1 x 36,000,000": lambda: black_png(1, 36_000_000, 8),
    "WebP of 16,383 x 16,383 in 34 bytes": lambda: lossless_webp(16_383, 16_383),
    "WebP of 36 megapixels in 34 bytes": lambda: lossless_webp(6000, 6000),
    "WebP of 36 megapixels, lossy with alpha": lambda: lossy_webp_with_alpha(6000, 6000),
    "WebP with 1,000,000 unknown chunks": lambda: webp(
        webp_header(64, 48, 0), riff_chunk(b"prVt") * 1_000_000, lossless_webp(64, 48, 255)[12:]
    ),
}
