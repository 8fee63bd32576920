"""Image preprocessing and encoding: JPEG, PNG or WebP bytes to a square of pixels, and back.

Training, evaluation and serving share this contract, so a model is served what it was trained on.
Version 2:

1. recognise the format (JPEG, PNG or WebP) by its bytes; walk over the container within limits;
   check one frame, and the header's width x height
2. decode what makes pixels, and nothing else; a JPEG in the DCT domain at 1/2, 1/4 or 1/8 where
   that leaves at least twice the pixels needed
3. palette, 1-, 2-, 4- and 16-bit samples to 8 bits; transparent pixels become white, in large
   images after averaging blocks of the largest whole factor
4. apply the orientation of EXIF (XMP has no say)
5. crop the centred square, or take the whole image, and resize it: a box filter by the largest
   whole factor, then bicubic with antialiasing
6. convert a colour profile (RGB, grey or CMYK) to sRGB; PNG's gAMA, cHRM and cICP are ignored
7. with `fit="pad"`, continue the outermost pixels to the square
8. uint8 [S, S, 3]

Version 1 decoded every JPEG at full size, and made every image opaque at full size. Images less
than twice as large as the square have the same pixels in both.

Pixels without a file format begin at step 5; they are what a PNG of them is.
"""

from imaging.errors import BadImage, TooManyPixels, UnsupportedFormat
from imaging.fit import FITS, Fit, View, crop_to_aspect
from imaging.image_file import DEFAULT_MAX_PIXELS, ImageFile, decode, open_image, prepare
from imaging.pixels import Pixels
from imaging.write import FORMATS, encode_image, is_quick_to_encode

CONTRACT_VERSION = 2

__all__ = [
    "CONTRACT_VERSION",
    "DEFAULT_MAX_PIXELS",
    "FITS",
    "FORMATS",
    "BadImage",
    "Fit",
    "ImageFile",
    "Pixels",
    "TooManyPixels",
    "UnsupportedFormat",
    "View",
    "crop_to_aspect",
    "decode",
    "encode_image",
    "is_quick_to_encode",
    "open_image",
    "prepare",
]
