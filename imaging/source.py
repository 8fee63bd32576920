"""What a walk over the container of an image file finds, the same for every format."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Source(ABC):
    """The parts of an image file: what makes pixels, and the metadata that changes their meaning.

    width, height: as stored, in pixels, before the orientation is applied. stream: a file of the
    same format with nothing but what makes pixels; decoders see this alone. orientation: 1 to 8, as
    EXIF counts. seconds: estimated time of a core to decode it.
    """

    format: str
    width: int
    height: int
    stream: bytes
    orientation: int

    @property
    @abstractmethod
    def seconds(self) -> float: ...

    @abstractmethod
    def memory(self, reduction: float) -> int:
        """Upper bound of the bytes that `decode` takes beyond the stream."""

    @property
    def quick(self) -> bool:
        """Whether decoding takes about a millisecond at most, whatever the bytes are."""
        return False

    @abstractmethod
    def profile(self) -> bytes | None:
        """The ICC profile, if there is a whole one."""

    @abstractmethod
    def decode(self, reduction: float) -> tuple[Image.Image, int]:
        """The image as stored, opaque, in mode L, RGB, RGBX or CMYK, and its reduction.

        reduction: how many times smaller than the file the result may be; a decoder may do less, in
        whole steps. With the reduction n, pixel (x, y) covers the square of n x n pixels of the
        file that begins at (nx, ny). Raises BadImage.
        """
