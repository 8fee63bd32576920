"""Whole images of formats that the service does not take, and the name that the error must have."""

import struct

import numpy as np
from PIL import Image

from loadtest.chaos.image_parts import SOF1, SOF9, SOF10, SOF11, SOF55, SOI, segment
from tests.support.images import jpegs
from tests.support.photographs import encoded, photograph

PHOTO = Image.fromarray(photograph("coffee")[100:148, 200:264])  # 64 x 48
_JPEG = encoded(PHOTO, "JPEG")
_PROGRESSIVE = encoded(PHOTO, "JPEG", progressive=True)


def _file_type(brand: bytes, *others: bytes) -> bytes:
    """The first box of a HEIF or MP4 file, and a second one."""
    body = b"ftyp" + brand + bytes(4) + b"".join(others)
    return struct.pack(">I", len(body) + 4) + body + b"\0\0\0\x10meta" + bytes(8)


def _pfm(image: Image.Image) -> bytes:
    rows = np.asarray(image.convert("L"))[::-1].astype("<f4") / 255
    return b"Pf\n%d %d\n-1.0\n" % image.size + rows.tobytes()


# (name in the error, file)
FILES: list[tuple[str, bytes]] = [
    ("GIF", encoded(PHOTO, "GIF")),
    ("BMP", encoded(PHOTO, "BMP")),
    ("BMP", encoded(PHOTO.convert("L"), "BMP")),
    ("TIFF", encoded(PHOTO, "TIFF")),
    ("TIFF", encoded(PHOTO, "TIFF", big_tiff=True)),
    ("TIFF", b"MM\0*\0\0\0\x08" + bytes(100)),  # DNG, NEF, ARW and CR2 begin so as well
    ("ICO", encoded(PHOTO, "ICO")),
    ("AVIF", encoded(PHOTO, "AVIF")),
    ("AVIF", _file_type(b"avis", b"avis", b"msf1", b"miaf")),
    ("AVIF", _file_type(b"mif1", b"mif1", b"avif", b"miaf")),
    ("HEIC", _file_type(b"heic", b"mif1", b"heic")),
    ("HEIC", _file_type(b"heix", b"mif1", b"heix")),
    ("HEIC", _file_type(b"mif1", b"mif1", b"heic")),
    ("HEIC", _file_type(b"msf1", b"msf1", b"hevc")),
    ("JPEG 2000", encoded(PHOTO, "JPEG2000")),
    ("JPEG 2000", encoded(PHOTO, "JPEG2000", no_jp2=True)),
    ("JPEG XL", b"\xff\x0a\xfa\x1f\x01" + bytes(100)),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + _file_type(b"jxl ")),
    ("PSD", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + bytes(100)),
    ("PSD", b"8BPS\0\2" + bytes(6) + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + bytes(100)),
    ("QOI", b"qoif" + struct.pack(">IIBB", 64, 48, 3, 0) + bytes(100) + b"\0\0\0\0\0\0\0\1"),
    ("SVG", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ("SVG", b"\xef\xbb\xbf  <svg></svg>"),
    ("DDS", encoded(PHOTO, "DDS")),
    ("PPM", encoded(PHOTO, "PPM")),
    ("PGM", encoded(PHOTO.convert("L"), "PPM")),
    ("PBM", encoded(PHOTO.convert("1"), "PPM")),
    ("PPM", b"P3\n1 1\n255\n1 2 3\n"),
    ("PNM", b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n\1\2\3"),
    ("PFM", _pfm(PHOTO)),
    ("PFM", b"PF\n1 1\n-1.0\n" + bytes(12)),
    ("OpenEXR", b"\x76\x2f\x31\x01\2\0\0\0channels\0chlist\0" + bytes(100)),
    ("HDR", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\x80\x80\x80\x80"),
    ("HDR", b"#?RGBE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\x80\x80\x80\x80"),
    ("JPEG-LS", SOI + segment(SOF55, b"\x08\0\x30\0\x40\x01\x01\x11\0") + _JPEG[2:]),
    ("12 bits", jpegs.with_frame(_JPEG, SOF1, precision=12)),
    ("12 bits", jpegs.with_frame(_PROGRESSIVE, precision=12)),
    ("arithmetic", jpegs.with_frame(_JPEG, SOF9)),
    ("arithmetic", jpegs.with_frame(_PROGRESSIVE, SOF10)),
    ("arithmetic", jpegs.with_frame(_JPEG, SOF11)),
]
# Not images, or none that a first glance tells from noise.
NO_IMAGES = [
    b"x",
    bytes(1000),
    b"hello, world" * 50,
    b"<html><body>404</body></html>",
    b"BMW is a car maker",
    b"II is a king's number",
    b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100),
    b"PK\3\4" + bytes(100),
    b"\x1f\x8b\x08" + bytes(100),
]
