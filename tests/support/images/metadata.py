"""EXIF, XMP and colour profiles, made by hand, with effects that are easy to see."""

import struct

from PIL import ImageCms

ORIENTATION = 0x0112
NOT_EXIF = b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\xff" * 20  # 65,535 entries of no known type
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# The same profile with the primaries of red and blue exchanged: what it calls red is blue.
RED_IS_BLUE = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
_D50 = (0.9642, 1.0, 0.8249)


def exif(orientation: int, little_endian: bool = False) -> bytes:
    """A TIFF header and one directory with the orientation, as PNG's eXIf and WebP's EXIF hold."""
    order = "<" if little_endian else ">"
    head = (b"II" if little_endian else b"MM") + struct.pack(order + "HI", 42, 8)
    entry = struct.pack(order + "HHIHH", ORIENTATION, 3, 1, orientation, 0)
    return head + struct.pack(order + "H", 1) + entry + struct.pack(order + "I", 0)


def xmp(orientation: int) -> bytes:
    """An XMP packet that says an orientation."""
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/></rdf:RDF>'
        '</x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def grey_profile(gamma: float, padding: int = 0) -> bytes:
    """A profile of grey pixels with this gamma, and a tag of `padding` bytes that nobody reads."""
    tags = {b"wtpt": _xyz(*_D50), b"kTRC": _curve(gamma)}
    return _profile(b"GRAY", b"mntr", b"XYZ ", tags, padding)


def rgb_profile(gamma: float, padding: int = 0) -> bytes:
    """A profile of the primaries of sRGB with another gamma."""
    tags = {
        b"wtpt": _xyz(*_D50),
        b"rXYZ": _xyz(0.4360, 0.2225, 0.0139),
        b"gXYZ": _xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": _xyz(0.1431, 0.0606, 0.7141),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma)),
    }
    return _profile(b"RGB ", b"mntr", b"XYZ ", tags, padding)


def cmyk_profile() -> bytes:
    """A profile that takes cyan ink for yellow and the other way round, black for no colour."""
    corners = bytearray()
    for inks in range(16):
        cyan, magenta, yellow, black = (inks >> place & 1 for place in (3, 2, 1, 0))
        lightness = 0 if black else 255 - 70 * (cyan + magenta + yellow)
        # Lab in eight bits; blue-yellow: more cyan is more yellow here.
        corners += bytes([max(0, lightness), 128 + 40 * magenta - 20 * yellow, 128])
        corners[-1] = 128 if black else 128 + 60 * cyan - 60 * yellow
    identity = struct.pack(">9i", *(65_536 if i % 4 == 0 else 0 for i in range(9)))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0\x04\x03\x02\0" + identity + ramp * 4 + bytes(corners) + ramp * 3
    tags = {b"wtpt": _xyz(*_D50), b"A2B0": lut}
    return _profile(b"CMYK", b"prtr", b"Lab ", tags, 0)


def _profile(
    space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes], padding: int
) -> bytes:
    tags = {b"desc": _text(b"test"), b"cprt": b"text\0\0\0\0none\0", **tags}
    if padding:
        tags[b"priv"] = b"data\0\0\0\0\0\0\0\1" + bytes(padding)
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"none", 0x02400000, kind, space, connection
    )
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += b"".join(_fixed(value) for value in _D50)
    return header.ljust(128, b"\0") + table + body


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65_536))


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(value) for value in values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _text(text: bytes) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(1 + 4 + 4 + 2 + 1 + 67)
