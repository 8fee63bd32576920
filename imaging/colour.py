"""Transparency and colour profiles."""

import io
from functools import lru_cache

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20
PROFILE_HEADER_BYTES = 128
# Colour space in the header of a profile, to the mode of the pixels it describes.
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}


def on_white(image: Image.Image) -> Image.Image:
    """LA to L, RGBA to RGB: what is transparent becomes white, because most such images are drawn
    for a white page."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    opaque = Image.alpha_composite(white, rgba)
    return opaque.getchannel(0) if image.mode == "LA" else opaque.convert("RGB")


def profile_size(profile: bytes) -> int:
    """Size in bytes that an ICC profile says it has; 0 if it is none, or has more than 4 MiB."""
    size = int.from_bytes(profile[:4], "big")
    is_profile = len(profile) >= PROFILE_HEADER_BYTES and profile[36:40] == b"acsp"
    return size if is_profile and size <= MAX_PROFILE_BYTES else 0


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB, RGBX or CMYK to RGB, by the profile if it can be read and fits, else as sRGB."""
    mode = _MODES.get((profile or b"")[16:20])
    if mode == "RGB" and image.mode != "CMYK":
        image = image.convert("RGB")
    if profile is None or mode != image.mode:
        return image.convert("RGB")
    try:
        return ImageCms.applyTransform(image, _transform(profile, mode)) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGB")  # as browsers do


@lru_cache(maxsize=8)  # a profile can have megabytes
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
    )
