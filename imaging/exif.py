"""The orientation in EXIF data. Whatever cannot be read counts as upright."""

import struct

UPRIGHT = 1
_ORIENTATION = 0x0112
_MAX_ENTRIES = 1000
_FORMATS = {1: "B", 3: "H", 4: "I"}  # of TIFF: BYTE, SHORT, LONG


def read_orientation(exif: bytes | None) -> int:
    """Orientation 1 to 8 in a TIFF block, with or without "Exif" in front; 1 if there is none."""
    if exif is None:
        return UPRIGHT
    tiff = exif[6:] if exif.startswith(b"Exif\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for number in range(min(entries, _MAX_ENTRIES)):
            at = directory + 2 + 12 * number
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, at)
            if tag == _ORIENTATION and kind in _FORMATS and count >= 1:
                (value,) = struct.unpack_from(order + _FORMATS[kind], tiff, at + 8)
                return int(value) if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def decode_raw_profile(text: bytes) -> bytes | None:
    """EXIF from the text of a PNG chunk "Raw profile type exif": name, length, then hex digits."""
    lines = text.split(maxsplit=2)
    if len(lines) < 3:
        return None
    digits = b"".join(lines[2].split())
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return None
