"""DecodedPixels: an image that a tokenizer in this process decoded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import imaging
from channeltok._messages import ImageFormat, check_format


@dataclass(frozen=True, eq=False)
class DecodedPixels:
    """A decoded image, sRGB, with the methods of `channeltok.DecodedImage`.

    Attributes:
        pixels: uint8 [H, W, 3].
    """

    pixels: NDArray[np.uint8]

    def as_pil(self) -> Any:
        """PIL.Image.Image, mode RGB."""
        from PIL import Image

        return Image.fromarray(self.pixels)

    def as_numpy(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]."""
        return self.pixels

    def as_tensor(self) -> Any:
        """torch.Tensor, float32 [3, H, W] from 0 to 1. Raises ImportError without PyTorch."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(self.pixels))
        return pixels.permute(2, 0, 1).contiguous().float() / 255

    def to_bytes(self, format: ImageFormat = "png") -> bytes:
        """An image file, as the service writes it. Raises InvalidInput (UNSUPPORTED_FORMAT)."""
        check_format(format)
        return imaging.encode_image(self.pixels, format.upper())

    def _repr_png_(self) -> bytes:
        """The image in a notebook."""
        return self.to_bytes()
