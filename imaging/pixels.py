"""Images as they are in memory: pixels without a file format."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaging.errors import BadImage
from imaging.resize import Box
from imaging.source import Source

QUICK_PIXELS = 256 * 256
_BYTES_PER_ROW = 64  # a pointer in each of Pillow's images


@dataclass(frozen=True)
class Pixels:
    """rgb: red, green and blue of each pixel, uint8, sRGB, in rows from the top without padding."""

    width: int
    height: int
    rgb: bytes

    def __len__(self) -> int:
        """Bytes of the pixels."""
        return len(self.rgb)


@dataclass(frozen=True)
class PixelsSource(Source):
    """See Source. The stream is the pixels."""

    @property
    def seconds(self) -> float:
        return 5e-9 * self.width * self.height

    def memory(self, reduction: float) -> int:
        """Pillow's image of 4 bytes for each pixel, and what it is resized through."""
        return 8 * self.width * self.height + _BYTES_PER_ROW * self.height

    @property
    def quick(self) -> bool:
        return self.width * self.height <= QUICK_PIXELS

    def profile(self) -> None:
        """None: the pixels are sRGB."""

    @property
    def whole(self) -> tuple[Box, int, int]:
        """The box of the whole image, its width and its height."""
        return (0.0, 0.0, float(self.width), float(self.height)), self.width, self.height

    def array(self) -> NDArray[np.uint8]:
        """The pixels themselves, uint8 [height, width, 3], read-only."""
        return np.frombuffer(self.stream, np.uint8).reshape(self.height, self.width, 3)

    def decode(self, reduction: float) -> tuple[Image.Image, int]:
        """The pixels as they are."""
        return Image.frombuffer("RGB", (self.width, self.height), self.stream), 1


def read(pixels: Pixels) -> PixelsSource:
    """Raises BadImage unless both sides are at least 1, and there are 3 bytes for each pixel."""
    width, height, length = pixels.width, pixels.height, len(pixels.rgb)
    if min(width, height) < 1:
        raise BadImage(f"the pixels are {width} x {height}; both sides are at least 1")
    if length != 3 * width * height:
        raise BadImage(
            f"there are {length:,} bytes of pixels; {width} x {height} pixels of red, green and "
            f"blue are {3 * width * height:,}"
        )
    return PixelsSource("RGB", width, height, pixels.rgb, 1)
