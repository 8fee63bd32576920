"""Random views of an image: crops, half of them mirrored, that follow from a seed.

A view depends on the seed, the key of its image, its number and the size of the image alone, so it
is the same on every machine and in every run, whatever comes before it. Only sums, products and
square roots of floats are used, which are the same everywhere.
"""

import hashlib
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import imaging
from channeltok.fit import Fit
from channeltok.local.image_errors import invalid_input
from channeltok.tokens import ImageView

MIN_AREA = 0.4  # of a view, as a share of the largest one that `fit` allows


@dataclass(frozen=True)
class RandomView:
    """A view.

    Attributes:
        number: of the view, from 1.
        pixels: uint8 [size, size, 3], as the tokenizer sees them.
        seen: the part of the image that they show, whole pixels of the upright image.
        flipped: whether they are mirrored, left to right.
    """

    number: int
    pixels: NDArray[np.uint8]
    seen: ImageView
    flipped: bool


@dataclass(frozen=True)
class RandomViews:
    """Makes views.

    Attributes:
        seed: of all of them.
        size: of the square that the tokenizer sees, in pixels.
        fit: "crop": views are squares; "pad": they have the proportions of their image, between two
            bands. Either way they cover MIN_AREA to 1 of the largest such part of the image.
    """

    seed: int
    size: int
    fit: Fit = "crop"

    def of(self, image: bytes, key: str, numbers: Iterable[int]) -> list[RandomView]:
        """Views of a JPEG, PNG or WebP, by their numbers.

        Raises InvalidInput: BAD_IMAGE, UNSUPPORTED_FORMAT or TOO_MANY_PIXELS.
        """
        try:
            file = imaging.open_image(image)
            return [self._view(file, key, number) for number in numbers]
        except imaging.BadImage as error:
            raise invalid_input(error) from error

    def _view(self, file: imaging.ImageFile, key: str, number: int) -> RandomView:
        draw = _random(self.seed, key, number)
        width, height = file.width, file.height
        scale = math.sqrt(MIN_AREA + (1 - MIN_AREA) * draw.random())
        side = min(width, height)
        columns, rows = (side, side) if self.fit == "crop" else (width, height)
        columns, rows = (max(1, round(length * scale)) for length in (columns, rows))
        left = int(draw.random() * (width - columns + 1))
        top = int(draw.random() * (height - rows + 1))
        flipped = draw.random() < 0.5
        box = (float(left), float(top), float(left + columns), float(top + rows))
        pixels = file.pixels(self.size, self.fit, box)
        if flipped:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return RandomView(number, pixels, ImageView(width, height, *box), flipped)


def _random(seed: int, key: str, number: int) -> random.Random:
    text = f"{seed} {number} {key}".encode(errors="surrogateescape")
    return random.Random(int.from_bytes(hashlib.sha256(text).digest(), "big"))
