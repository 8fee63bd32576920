"""WebP files of chosen chunks, around data that Pillow or loadtest's bombs encode."""

import struct
from collections.abc import Iterator

from PIL import Image

from loadtest.chaos.image_parts import riff_chunk, webp, webp_header
from tests.support.photographs import encoded

ANIMATED, XMP, EXIF, ALPHA, PROFILE = 2, 4, 8, 16, 32  # flags of VP8X


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each chunk."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def pixels(image: Image.Image, **options: object) -> bytes:
    """The chunks ALPH, VP8 and VP8L of an image as Pillow encodes it."""
    return b"".join(
        riff_chunk(kind, body)
        for kind, body in chunks(encoded(image, "WEBP", **options))
        if kind != b"VP8X"
    )


def extended(
    image: Image.Image, flags: int, before: bytes = b"", after: bytes = b"", **options: object
) -> bytes:
    """A WebP with a VP8X header and chunks before and after those of the pixels."""
    return webp(webp_header(*image.size, flags), before, pixels(image, **options), after)


def animation(image: Image.Image, count: int, **options: object) -> bytes:
    """`count` equal frames of full size."""
    width, height = (struct.pack("<I", side - 1)[:3] for side in image.size)
    frame = bytes(6) + width + height + b"\x64\0\0\0" + pixels(image, **options)
    control = riff_chunk(b"ANIM", b"\xff\xff\xff\xff\0\0")
    flags = ANIMATED | (ALPHA if image.mode == "RGBA" else 0)
    return webp(webp_header(*image.size, flags), control, riff_chunk(b"ANMF", frame) * count)
