"""Open image files, and decode them to the pixels that a tokenizer sees."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaging import jpeg, pixels, png, webp
from imaging.colour import to_srgb
from imaging.errors import TooManyPixels
from imaging.fit import Fit, View, content_box, view
from imaging.formats import identify
from imaging.pixels import Pixels, PixelsSource
from imaging.resize import Box, resize
from imaging.source import Source

DEFAULT_MAX_PIXELS = 36_000_000
MAX_SIDE = 1_000_000  # as in libpng; Pillow takes 8 bytes and 0.1 microseconds for each row
HEAVY_SECONDS = 0.025

# Sizes are checked on every header before decoding; Pillow's limit would warn at another number.
Image.MAX_IMAGE_PIXELS = None

_READERS = {"JPEG": jpeg.read, "PNG": png.read, "WEBP": webp.read}
_TURNS = {  # EXIF orientation to the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {5, 6, 7, 8}
# Orientations whose left, or upper, side is the right or lower end of the stored rows or columns.
_LEFT_IS_LAST, _TOP_IS_LAST = {2, 3, 6, 7}, {3, 4, 7, 8}


@dataclass(frozen=True)
class ImageFile:
    """A JPEG, PNG or WebP whose container was read and found sound; no pixel is decoded yet.

    Or pixels that need no decoding.
    """

    _source: Source

    @property
    def format(self) -> str:
        """ "JPEG", "PNG" or "WEBP"; "RGB" for pixels without a file."""
        return self._source.format

    @property
    def width(self) -> int:
        """Of the upright image, in pixels."""
        stored = self._source
        return stored.height if stored.orientation in _SIDEWAYS else stored.width

    @property
    def height(self) -> int:
        """Of the upright image, in pixels."""
        stored = self._source
        return stored.width if stored.orientation in _SIDEWAYS else stored.height

    @property
    def quick(self) -> bool:
        """Whether decoding takes about a millisecond at most: it may run on an event loop."""
        return self._source.quick

    @property
    def heavy(self) -> bool:
        """Whether decoding may take more than about 25 ms of a core."""
        return self._source.seconds > HEAVY_SECONDS

    def memory(self, size: int, fit: Fit = "crop") -> int:
        """Upper bound of the bytes that `pixels` takes, beyond the file itself."""
        side = (min if fit == "crop" else max)(self.width, self.height)
        return self._source.memory(side / size) + 16 * size * size + 2**20

    def view(self, fit: Fit = "crop") -> View:
        """The part of the image that `pixels` shows."""
        return view(self.width, self.height, fit)

    def pixels(self, size: int, fit: Fit = "crop", box: Box | None = None) -> NDArray[np.uint8]:
        """Decode to the square that a tokenizer sees: uint8 [size, size, 3], sRGB.

        box: the part to show, as in `crop`; None for that of `view`. Raises BadImage.
        """
        box = self.view(fit).box if box is None else box
        if fit == "crop":
            return self.crop(box, size, size)
        left, top, right, bottom = content_box(box[2] - box[0], box[3] - box[1], size)
        content = self.crop(box, right - left, bottom - top)
        # The outermost pixels go on to the edge of the square.
        margins = ((top, size - bottom), (left, size - right), (0, 0))
        return np.pad(content, margins, mode="edge")

    def crop(self, box: Box, width: int, height: int) -> NDArray[np.uint8]:
        """Decode, and resize the part in `box` to uint8 [height, width, 3], sRGB.

        box: left, top, right, bottom in pixels of the upright image. Raises BadImage.
        """
        left, top, right, bottom = box
        if isinstance(self._source, PixelsSource) and (box, width, height) == self._source.whole:
            return self._source.array()
        image, n, first_x, first_y = self._decode(
            min((right - left) / width, (bottom - top) / height)
        )
        reduced = (
            left / n + first_x,
            top / n + first_y,
            min(image.width, right / n + first_x),
            min(image.height, bottom / n + first_y),
        )
        resized = resize(image, reduced, width, height)
        # A profile costs microseconds on so few pixels.
        return np.asarray(to_srgb(resized, self._source.profile()))

    def decode(self) -> Image.Image:
        """The whole upright image at full size, sRGB. Raises BadImage."""
        return to_srgb(self._decode(1)[0], self._source.profile())

    def _decode(self, reduction: float) -> tuple[Image.Image, int, float, float]:
        """The upright image reduced n times, n, and where its first pixel begins, x and y.

        The last column and row of a reduced image may stand for less than n of the file, and an
        orientation can put them first.
        """
        source = self._source
        image, n = source.decode(reduction)
        spare_x, spare_y = image.width - source.width / n, image.height - source.height / n
        if source.orientation in _TURNS:
            image = image.transpose(_TURNS[source.orientation])
        if source.orientation in _SIDEWAYS:
            spare_x, spare_y = spare_y, spare_x
        return (
            image,
            n,
            spare_x if source.orientation in _LEFT_IS_LAST else 0.0,
            spare_y if source.orientation in _TOP_IS_LAST else 0.0,
        )


def open_image(data: bytes | Pixels, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageFile:
    """Read the container of an image, without decoding it.

    Takes a few microseconds for each segment, and a millisecond for each megabyte. max_pixels:
    largest width x height. Raises BadImage, UnsupportedFormat, TooManyPixels.
    """
    if isinstance(data, Pixels):
        source: Source = pixels.read(data)
    else:
        source = _READERS[identify(data)](data)
    if source.width * source.height > max_pixels:
        raise TooManyPixels(
            f"the image claims {source.width} x {source.height} = "
            f"{source.width * source.height:,} pixels; at most {max_pixels:,} are allowed"
        )
    if max(source.width, source.height) > MAX_SIDE:
        raise TooManyPixels(
            f"the image claims {source.width} x {source.height} pixels; "
            f"at most {MAX_SIDE:,} are allowed on a side"
        )
    return ImageFile(source)


def prepare(
    data: bytes | Pixels, size: int, max_pixels: int = DEFAULT_MAX_PIXELS, fit: Fit = "crop"
) -> NDArray[np.uint8]:
    """Bytes of a JPEG, PNG or WebP, or pixels, to the square that a tokenizer sees.

    Returns uint8 [size, size, 3].

    Raises BadImage or a subclass, with a message fit for the caller.
    """
    return open_image(data, max_pixels).pixels(size, fit)


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Bytes of a JPEG, PNG or WebP to the whole upright image, mode RGB. Raises BadImage."""
    return open_image(data, max_pixels).decode()
