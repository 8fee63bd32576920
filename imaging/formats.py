"""Recognise an image format by the first bytes of a file."""

import re

from imaging.errors import ACCEPTED, BadImage, unsupported

_FTYP_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
    ),
}
_MAX_FTYP_BYTES = 256
# Only to name the format in the error.
_UNSUPPORTED = {
    "GIF": rb"GIF8",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "JPEG XR": rb"II\xbc",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "ICO": rb"\0\0[\1\2]\0",
    "PSD": rb"8BP[SB]",
    "QOI": rb"qoif",
    "BMP": rb"BM.{4}\0{4}",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "PNM (PPM, PGM or PBM)": rb"P[1-7]\s",
    "PFM": rb"P[Ff]\s",
    "Radiance HDR": rb"#\?(RADIANCE|RGBE)",
    "DDS": rb"DDS ",
    "DPX": rb"SDPX|XPDS",
    "farbfeld": rb"farbfeld",
    "SVG": rb"(\xef\xbb\xbf)?\s*<(svg|.{0,1000}?<svg)[\s>]",
}
_PATTERNS = {name: re.compile(magic, re.DOTALL) for name, magic in _UNSUPPORTED.items()}


def identify(data: bytes) -> str:
    """ "JPEG", "PNG" or "WEBP". Raises UnsupportedFormat for other formats, BadImage for the rest.

    Bytes alone decide; what a file is called, or was sent as, does not count.
    """
    if not data:
        raise BadImage("the image is empty: 0 bytes")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for name, pattern in _PATTERNS.items():
        if pattern.match(data):
            raise unsupported(name)
    if data[4:8] == b"ftyp":
        # The major brand, its version, and the compatible brands. AVIF may be among the last.
        size = min(int.from_bytes(data[:4], "big"), _MAX_FTYP_BYTES)
        brands = {data[at : at + 4] for at in range(8, size, 4)}
        names = {_FTYP_BRANDS[brand] for brand in brands if brand in _FTYP_BRANDS}
        if names:
            raise unsupported("AVIF" if "AVIF" in names else "HEIC")
    raise BadImage(f"not an image: send a {ACCEPTED}")
