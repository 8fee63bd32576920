"""Geometry of the square that a tokenizer sees: what part of an image it shows, and where.

A tokenizer sees a square of `size` pixels. `crop` shows the centred square of the image and loses
the rest. `pad` shows the whole image, scaled to the square's longer side, between two equal bands.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Fit = Literal["crop", "pad"]
FITS: tuple[Fit, ...] = ("crop", "pad")


class View(NamedTuple):
    """What a tokenizer saw of an image.

    width, height: of the whole image, upright, in its own pixels. box: the part that was seen, as
    left, top, right, bottom in those pixels; half pixels where the margins are odd.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]


def view(width: int, height: int, fit: Fit) -> View:
    """The part that `fit` shows of an upright image of width x height pixels."""
    if fit == "pad":
        return View(width, height, (0.0, 0.0, float(width), float(height)))
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return View(width, height, (left, top, left + side, top + side))


def content_box(width: float, height: float, size: int) -> tuple[int, int, int, int]:
    """Where an image of proportions width : height lies, padded to a square of `size` pixels.

    Returns left, top, right, bottom, whole pixels; its sides are at least 1.
    """
    scale = size / max(width, height)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - columns) // 2, (size - rows) // 2
    return left, top, left + columns, top + rows


def crop_to_aspect(pixels: NDArray[np.uint8], width: float, height: float) -> NDArray[np.uint8]:
    """Remove the bands that `pad` added around an image of proportions width : height.

    uint8 [S, S, 3] to a view of it, [rows, columns, 3].
    """
    left, top, right, bottom = content_box(width, height, len(pixels))
    return pixels[top:bottom, left:right]
