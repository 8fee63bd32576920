"""Image preprocessing and encoding: JPEG, PNG or WebP bytes to a square of pixels, and back.

Training, evaluation and serving share this contract, so a model is served what it was trained on:

1. check the format (JPEG, PNG or WebP), one frame, and the header's width x height, before decoding
2. decode; apply the EXIF orientation
3. convert palette, grey, 16-bit and CMYK to RGB; transparent pixels become white
4. crop the centred square and resize it to S x S: a box filter by the largest whole factor, then
   bicubic with antialiasing
5. convert a colour profile to sRGB, on the S x S pixels, where it costs microseconds
6. uint8 [S, S, 3]
"""

from imaging.fit import FITS, Fit, View, crop_to_aspect
from imaging.read import (
    CHEAP_PIXELS,
    BadImage,
    Header,
    ImageFile,
    TooManyPixels,
    UnsupportedFormat,
    decode,
    is_cheap_to_decode,
    open_image,
    prepare,
    read_header,
)
from imaging.write import FORMATS, encode_image

__all__ = [
    "CHEAP_PIXELS",
    "FITS",
    "FORMATS",
    "BadImage",
    "Fit",
    "Header",
    "ImageFile",
    "TooManyPixels",
    "UnsupportedFormat",
    "View",
    "crop_to_aspect",
    "decode",
    "encode_image",
    "is_cheap_to_decode",
    "open_image",
    "prepare",
    "read_header",
]
