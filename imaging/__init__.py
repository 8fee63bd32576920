"""The image contract: from the bytes of a JPEG, PNG or WebP to the square of pixels a tokenizer sees, and back.

Training, evaluation and serving all go through here, so that a model meets at serving what it was trained on:

1. the format is JPEG, PNG or WebP, with one frame, and the header's width x height is within the limit; nothing is decoded before that
2. decode; turn upright (EXIF orientation)
3. palette, grey, 16-bit and CMYK become RGB; what is transparent becomes white
4. the centred square of the short side, resized to S x S: averaged by the largest whole factor, the rest bicubic with antialiasing
5. a colour profile is converted to sRGB, on the S x S pixels, where it costs microseconds
6. uint8 [S, S, 3]
"""

from imaging.read import (
    CHEAP_PIXELS,
    BadImage,
    Header,
    TooManyPixels,
    UnsupportedFormat,
    decode,
    is_cheap_to_decode,
    prepare,
    read_header,
)
from imaging.write import FORMATS, encode_image

__all__ = [
    "CHEAP_PIXELS",
    "FORMATS",
    "BadImage",
    "Header",
    "TooManyPixels",
    "UnsupportedFormat",
    "decode",
    "encode_image",
    "is_cheap_to_decode",
    "prepare",
    "read_header",
]
