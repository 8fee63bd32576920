"""Encode pixels as a JPEG, PNG or WebP file."""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
JPEG_QUALITY = 95  # no visible artefacts on top of the tokenizer's
QUICK_PIXELS = 256 * 256


def encode_image(pixels: NDArray[np.uint8], format: str) -> bytes:
    """uint8 [H, W, 3] to the bytes of a "JPEG" (quality 95, 4:4:4), "PNG" or "WEBP" (lossless).

    Raises KeyError for any other format.
    """
    if format == "JPEG":
        jpeg: bytes = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="444"
        )
        return jpeg
    buffer = io.BytesIO()
    options = {"PNG": {"compress_level": 1}, "WEBP": {"lossless": True, "method": 0, "quality": 0}}[
        format
    ]
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def is_quick_to_encode(pixels: NDArray[np.uint8], format: str) -> bool:
    """Whether `encode_image` takes about a millisecond at most: it may run on an event loop."""
    return format == "JPEG" and pixels.size <= 3 * QUICK_PIXELS
