"""A small JPEG encoder, for what Pillow's cannot write, and edits of whole JPEG files."""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtest.chaos.image_parts import (
    APP0,
    APP14,
    DHT,
    DQT,
    DRI,
    EOI,
    SOF0,
    SOF2,
    SOF3,
    SOI,
    SOS,
    segment,
)

Pixels = NDArray[np.uint8]
FULL, HALF = (1, 1), (2, 2)
# Codes of one length: 5 bits for sizes of differences, 8 bits for runs and sizes of coefficients.
DC_SYMBOLS = bytes(range(16))
AC_SYMBOLS = bytes(
    [run << 4 | size for run in range(16) for size in range(1, 11)]
    + [run << 4 for run in range(16)]  # 0: end of block, 15: 16 zeros, others: ends of bands
)
BAD_CODE = b"\xfe" * 4  # no code of AC_SYMBOLS
_ZIGZAG = sorted(
    ((row, column) for row in range(8) for column in range(8)),
    key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]),
)
_DCT = np.array(
    [
        [
            np.sqrt((1 if row else 0.5) / 4) * np.cos((2 * column + 1) * row * np.pi / 16)
            for column in range(8)
        ]
        for row in range(8)
    ]
)


class Scan(NamedTuple):
    """A pass over some components (by index), of coefficients start to end, less `low` bits."""

    components: tuple[int, ...]
    start: int = 0
    end: int = 63
    low: int = 0
    high: int = 0


def encode(
    planes: Sequence[Pixels],
    sampling: Sequence[tuple[int, int]],
    *,
    quantum: int = 1,
    scans: Sequence[Scan] | None = None,
    restart: int = 0,
    ids: Sequence[int] = (1, 2, 3, 4),
    frame: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A JPEG of components of equal size, each reduced to its (horizontal, vertical) sampling.

    quantum: of every coefficient; 1 is the best quality. scans: progressive if one takes a part of
    the coefficients. restart: MCUs per interval. ids: of the components. before: segments after the
    first marker.
    """
    height, width = planes[0].shape
    widest, tallest = (max(factors[axis] for factors in sampling) for axis in (0, 1))
    blocks = [
        _blocks(plane, widest, tallest, factors, quantum)
        for plane, factors in zip(planes, sampling, strict=True)
    ]
    every = tuple(range(len(planes)))
    scans = scans or [Scan(every)]
    if frame is None:
        frame = SOF0 if all((scan.start, scan.end) == (0, 63) for scan in scans) else SOF2
    components = b"".join(
        bytes([ids[i], sampling[i][0] << 4 | sampling[i][1], 0]) for i in range(len(planes))
    )
    parts = [
        SOI + before,
        segment(DQT, b"\x00" + bytes([quantum] * 64)),
        segment(frame, struct.pack(">BHHB", 8, height, width, len(planes)) + components),
        segment(DHT, _table(0x00, DC_SYMBOLS, 5) + _table(0x10, AC_SYMBOLS, 8)),
        segment(DRI, struct.pack(">H", restart)) if restart else b"",
    ]
    for scan in scans:
        parts.append(segment(SOS, _scan_header(scan, ids)))
        if len(scan.components) == 1:
            (only,) = scan.components
            rows = -(-height * sampling[only][1] // (8 * tallest))
            columns = -(-width * sampling[only][0] // (8 * widest))
            units = [[(only, row, column)] for row in range(rows) for column in range(columns)]
        else:
            units = [
                [
                    (i, row * sampling[i][1] + y, column * sampling[i][0] + x)
                    for i in scan.components
                    for y in range(sampling[i][1])
                    for x in range(sampling[i][0])
                ]
                for row in range(-(-height // (8 * tallest)))
                for column in range(-(-width // (8 * widest)))
            ]
        interval = restart or len(units)
        for count, first in enumerate(range(0, len(units), interval)):
            parts += [bytes([0xFF, 0xD0 + (count - 1) % 8])] if count else []
            parts.append(_entropy_coded(_code(units[first : first + interval], blocks, scan)))
    return b"".join([*parts, EOI])


def ycc(image: Image.Image) -> list[Pixels]:
    """The three planes of an RGB image as JPEG stores them."""
    return [np.asarray(plane) for plane in image.convert("YCbCr").split()]


def lossless(pixels: Pixels, predictor: int = 1, before: bytes = b"") -> bytes:
    """A lossless JPEG (SOF3) of grey pixels [H, W], predicted from the pixel to the left."""
    height, width = pixels.shape
    values = pixels.astype(int)
    above = np.concatenate([[128], values[:-1, 0]])
    predicted = np.concatenate([above[:, None], values[:, :-1]], axis=1)
    codes = [_difference(int(value)) for value in (values - predicted).ravel()]
    return b"".join(
        [
            SOI + before,
            segment(SOF3, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"),
            segment(DHT, _table(0x00, DC_SYMBOLS, 5)),
            segment(SOS, b"\x01\x01\x00" + bytes([predictor, 0, 0])),
            _entropy_coded(iter(codes)),
            EOI,
        ]
    )


def jfif(version: int = 0x0101, unit: int = 0, density: tuple[int, int] = (1, 1)) -> bytes:
    """The JFIF segment. unit: 0 none, 1 pixels per inch, 2 per centimetre."""
    return segment(APP0, b"JFIF\0" + struct.pack(">HBHHBB", version, unit, *density, 0, 0))


def adobe(transform: int) -> bytes:
    """Adobe's segment. transform: 0 RGB or CMYK, 1 YCbCr, 2 YCCK."""
    return segment(APP14, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def inserted(data: bytes, parts: bytes) -> bytes:
    """`parts` right after the first marker."""
    return data[:2] + parts + data[2:]


def before_marker(data: bytes, marker: int, parts: bytes) -> bytes:
    """`parts` before the first such marker, which must not lie in a thumbnail before it."""
    at = data.index(bytes([0xFF, marker]))
    return data[:at] + parts + data[at:]


def entropy_data(data: bytes) -> slice:
    """Where the coded data of the last scan lies."""
    start = data.rindex(bytes([0xFF, SOS]))
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return slice(start, data.rindex(EOI))


def with_hole(data: bytes, share: float = 0.5, length: int = 40) -> bytes:
    """Without `length` bytes of the last scan's coded data, from a share of it on."""
    coded = entropy_data(data)
    at = coded.start + int((coded.stop - coded.start) * share)
    return data[:at] + data[at + length :]


def overwritten(data: bytes, share: float = 0.5, code: bytes = BAD_CODE) -> bytes:
    """With other bytes in the last scan's coded data."""
    coded = entropy_data(data)
    at = coded.start + int((coded.stop - coded.start) * share)
    return data[:at] + code + data[at + len(code) :]


def with_frame(data: bytes, marker: int | None = None, precision: int | None = None) -> bytes:
    """With another marker or number of bits per sample in the frame header."""
    at = next(at for at in range(len(data)) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2))
    header = bytearray(data[at : at + 5])
    header[1] = header[1] if marker is None else marker
    header[4] = header[4] if precision is None else precision
    return data[:at] + bytes(header) + data[at + 5 :]


def with_size(data: bytes, width: int, height: int) -> bytes:
    """With another size in the frame header."""
    at = next(at for at in range(len(data)) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def with_last_coefficient(data: bytes, last: int) -> bytes:
    """With another Se in every scan header. Sequential decoders ignore it; some files say 0."""
    edited, at = bytearray(data), 0
    while (at := data.find(bytes([0xFF, SOS]), at)) >= 0:
        edited[at + int.from_bytes(data[at + 2 : at + 4], "big")] = last
        at += 2
    return bytes(edited)


def with_fill_bytes(data: bytes, count: int = 7) -> bytes:
    """With `count` bytes 0xFF in front of each segment's marker."""
    parts, at = [data[:2]], 2
    while True:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(b"\xff" * count + data[at : at + length])
        if data[at + 1] == SOS:
            return b"".join([*parts, data[at + length :]])
        at += length


def _blocks(
    plane: Pixels, widest: int, tallest: int, factors: tuple[int, int], quantum: int
) -> NDArray[np.int64]:
    """Quantised coefficients [rows, columns, 64] of a component, in zigzag order, whole MCUs."""
    height, width = plane.shape
    columns, rows = -(-width * factors[0] // widest), -(-height * factors[1] // tallest)
    reduced = np.asarray(Image.fromarray(plane).resize((columns, rows), Image.Resampling.BOX))
    mcu_rows, mcu_columns = -(-height // (8 * tallest)), -(-width // (8 * widest))
    full = (mcu_rows * factors[1] * 8, mcu_columns * factors[0] * 8)
    padded = np.pad(reduced, [(0, full[0] - rows), (0, full[1] - columns)], mode="edge")
    tiles = padded.reshape(full[0] // 8, 8, full[1] // 8, 8).swapaxes(1, 2) - 128.0
    coefficients = np.rint(_DCT @ tiles @ _DCT.T / quantum).astype(np.int64)
    down, right = zip(*_ZIGZAG, strict=True)
    return coefficients[:, :, list(down), list(right)].clip(-1023, 1023)


def _code(
    units: Sequence[Sequence[tuple[int, int, int]]],
    blocks: Sequence[NDArray[np.int64]],
    scan: Scan,
) -> Iterator[str]:
    """The bits of MCUs, each a list of (component, row, column)."""
    previous = dict.fromkeys(scan.components, 0)
    for unit in units:
        for component, row, column in unit:
            block = blocks[component][row, column].tolist()
            if scan.high:  # one more bit of each value; only of the first coefficient
                yield str(block[0] >> scan.low & 1)
                continue
            if scan.start == 0:
                value = block[0] >> scan.low
                yield _difference(value - previous[component])
                previous[component] = value
            run = 0
            for value in block[max(1, scan.start) : scan.end + 1]:
                value = abs(value) >> scan.low if value >= 0 else -(abs(value) >> scan.low)
                if not value:
                    run += 1
                    continue
                while run > 15:
                    yield _symbol(AC_SYMBOLS, 0xF0, 8)
                    run -= 16
                size, rest = _magnitude(value)
                yield _symbol(AC_SYMBOLS, run << 4 | size, 8) + rest
                run = 0
            if run:
                yield _symbol(AC_SYMBOLS, 0, 8)


def _difference(value: int) -> str:
    size, rest = _magnitude(value)
    return _symbol(DC_SYMBOLS, size, 5) + rest


def _magnitude(value: int) -> tuple[int, str]:
    """Number of bits of a value, and these bits: of a negative one, one less."""
    size = abs(value).bit_length()
    return size, f"{value if value > 0 else value + (1 << size) - 1:0{size}b}" if size else ""


def _symbol(symbols: bytes, symbol: int, length: int) -> str:
    return f"{symbols.index(symbol):0{length}b}"


def _table(slot: int, symbols: bytes, length: int) -> bytes:
    counts = [len(symbols) if bits == length else 0 for bits in range(1, 17)]
    return bytes([slot, *counts]) + symbols


def _scan_header(scan: Scan, ids: Sequence[int]) -> bytes:
    tables = b"".join(bytes([ids[i], 0]) for i in scan.components)
    approximation = scan.high << 4 | scan.low
    return bytes([len(scan.components)]) + tables + bytes([scan.start, scan.end, approximation])


def _entropy_coded(codes: Iterator[str]) -> bytes:
    text = "".join(codes)
    text += "1" * (-len(text) % 8)
    data = int(text or "0", 2).to_bytes(len(text) // 8, "big")
    return data.replace(b"\xff", b"\xff\x00")
