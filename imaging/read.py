"""Decode and preprocess images: JPEG, PNG or WebP bytes to pixels, or an error with the reason.

Applies EXIF orientation, transparency and colour profiles.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms

from imaging.fit import Fit, View, content_box, view

ALLOWED = ("JPEG", "PNG", "WEBP")
DEFAULT_MAX_PIXELS = 36_000_000
CHEAP_PIXELS, CHEAP_BYTES = 256 * 256, 64 * 2**10

# Our limit is checked on every header before decoding; Pillow's would warn at another number.
Image.MAX_IMAGE_PIXELS = None
# Pillow's decoders raise these on broken bytes. Any other exception is a bug of ours and must not
# be blamed on the caller.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_OURS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}
# Magic bytes of unsupported formats, to name the format in the error.
_OTHERS = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "ICO",
    b"8BPS": "PSD",
    b"qoif": "QOI",
}
_TURNS = {  # EXIF orientation to the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):
    """The bytes are no readable image: empty, broken, truncated, animated, or something else."""


class UnsupportedFormat(BadImage):
    """The bytes are an image, but not a JPEG, PNG or WebP."""


class TooManyPixels(BadImage):
    """The header claims more pixels than allowed; nothing was decoded."""


@dataclass(frozen=True)
class Header:
    """Format and size from an image's header. width, height: pixels, before the EXIF rotation."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Format ("JPEG", "PNG" or "WEBP") and size, without decoding.

    Raises BadImage or UnsupportedFormat.
    """
    format, image = _open(data)
    return Header(format, image.width, image.height)


def is_cheap_to_decode(data: bytes) -> bool:
    """Whether `prepare` takes less than a millisecond: a JPEG of few pixels and few bytes.

    Bytes count too, because a progressive JPEG of many scans is slow at any size.
    """
    if len(data) > CHEAP_BYTES or not data.startswith(b"\xff\xd8\xff"):
        return False
    try:
        height, width = simplejpeg.decode_jpeg_header(data, strict=True)[:2]
    except ValueError:
        return False
    return bool(height * width <= CHEAP_PIXELS)


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Steps 1 to 3: an upright image in mode RGB, or CMYK if step 5 must still apply its profile.

    Raises BadImage.
    """
    format, image = _open(data)
    if image.width * image.height > max_pixels:
        raise TooManyPixels(
            f"the image claims {image.width} x {image.height} = {image.width * image.height:,} "
            f"pixels; at most {max_pixels:,} are allowed"
        )
    # Further frames of a JPEG are a camera's previews and gain maps.
    frames = 1 if format == "JPEG" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadImage(f"the image has {frames} frames; send an image with one")
    profile = image.info.get("icc_profile")
    try:
        orientation = image.getexif().get(0x0112)
        upright = (
            _decode_jpeg(data, image.size)
            if format == "JPEG" and image.mode in ("RGB", "L")
            else _as_rgb(image)
        )
    except _BROKEN as error:
        raise _damaged(format) from error
    if orientation in _TURNS:
        upright = upright.transpose(_TURNS[orientation])
    if profile:
        upright.info["icc_profile"] = profile
    return upright


def prepare(
    data: bytes, size: int, max_pixels: int = DEFAULT_MAX_PIXELS, fit: Fit = "crop"
) -> NDArray[np.uint8]:
    """Steps 1 to 6: bytes of a JPEG, PNG or WebP to uint8 [size, size, 3], sRGB.

    Raises BadImage or a subclass, with a message fit for the caller.
    """
    return open_image(data, max_pixels).pixels(size, fit)


@dataclass(frozen=True)
class ImageFile:
    """An image whose header was read and checked. width, height: upright, in pixels."""

    data: bytes
    max_pixels: int
    width: int
    height: int

    @property
    def quick(self) -> bool:
        """Whether `pixels` takes about a millisecond at most: may run on an event loop."""
        return is_cheap_to_decode(self.data)

    @property
    def heavy(self) -> bool:
        """Whether `pixels` may take more than about 25 ms of a core."""
        return self.width * self.height > 1_000_000

    @property
    def memory(self) -> int:
        """Upper bound of the bytes that `pixels` takes, beyond the file itself."""
        return 30 * self.width * self.height

    def view(self, fit: Fit = "crop") -> View:
        """What `pixels` shows of the image."""
        return view(self.width, self.height, fit)

    def pixels(self, size: int, fit: Fit = "crop") -> NDArray[np.uint8]:
        """Decode to uint8 [size, size, 3], sRGB. Raises BadImage."""
        image = decode(self.data, self.max_pixels)
        box = self.view(fit).box
        if fit == "crop":
            return crop_and_resize(image, size, box)
        left, top, right, bottom = content_box(self.width, self.height, size)
        pixels = np.full((size, size, 3), 255, np.uint8)
        resized = image.resize(
            (right - left, bottom - top), Image.Resampling.BICUBIC, reducing_gap=1.0
        )
        pixels[top:bottom, left:right] = np.asarray(resized.convert("RGB"))
        return pixels


def open_image(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageFile:
    """Read and check the header; nothing is decoded. Raises BadImage or a subclass."""
    image = decode(data, max_pixels)
    return ImageFile(data, max_pixels, image.width, image.height)


def crop_and_resize(
    image: Image.Image, size: int, box: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    """Steps 4 to 6 for any box (left, top, right, bottom) in pixels: uint8 [size, size, 3].

    Training crops at random; everything else takes the centred square.
    """
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=1.0)
    profile = image.info.get("icc_profile")
    if profile:
        resized = _to_srgb(resized, profile)
    return np.asarray(resized.convert("RGB"))


def _open(data: bytes) -> tuple[str, Image.Image]:
    if not data:
        raise BadImage("the image is empty: 0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=ALLOWED)
    except _BROKEN as error:
        raise _refusal(data) from error
    # MPO: Pillow's name for a JPEG with previews
    return "JPEG" if image.format in ("JPEG", "MPO") else str(image.format), image


def _refusal(data: bytes) -> BadImage:
    """Why Pillow cannot open `data`: damaged, an unsupported format, or no image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _damaged("WEBP")
    for magic, format in _OURS.items():
        if data.startswith(magic):
            return _damaged(format)
    other = _other_format(data)
    if other:
        return UnsupportedFormat(f"this is {other}: send a JPEG, PNG or WebP")
    return BadImage("not an image: send a JPEG, PNG or WebP")


def _other_format(data: bytes) -> str | None:
    for magic, format in _OTHERS.items():
        if data.startswith(magic):
            return format
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "BMP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF"
    if data[4:8] == b"ftyp" and data[8:12] in (
        b"heic",
        b"heix",
        b"heim",
        b"heis",
        b"hevc",
        b"hevx",
        b"mif1",
        b"msf1",
    ):
        return "HEIC"
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    return "SVG" if head.startswith(b"<") and b"<svg" in head else None


def _damaged(format: str) -> BadImage:
    return BadImage(f"the {format} cannot be decoded: truncated or damaged")


def _decode_jpeg(data: bytes, size: tuple[int, int]) -> Image.Image:
    # Three times as fast as Pillow, with the same libjpeg-turbo arithmetic.
    # strict: refuse a truncated file instead of filling it with grey.
    height, width = simplejpeg.decode_jpeg_header(data, strict=True)[:2]
    if (width, height) != size:
        raise ValueError(
            "two readers of the header see two sizes, and only one was checked against the limit"
        )
    return Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True))


def _as_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey PNG: Pillow's own conversion clips instead of scaling.
        scaled = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "CMYK" else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        return ImageCms.applyTransform(image, _srgb_transform(profile, image.mode)) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        # An unreadable profile, or one for other channels: take the pixels as sRGB, as browsers do.
        return image


@lru_cache(maxsize=8)  # a profile can have megabytes
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
    )
