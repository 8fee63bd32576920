"""How an image of any shape becomes the square that a tokenizer sees, and the way back.

`crop` shows the centred square of the image and loses the rest. `pad` shows the whole image between
two bands; `aspect`, its proportions, removes them from the decoded square.
"""

import operator
import re
from typing import Literal, TypeAlias, get_args

from channeltok.errors import InvalidInput

Fit: TypeAlias = Literal["crop", "pad"]
FITS: tuple[Fit, ...] = get_args(Fit)
Aspect: TypeAlias = tuple[int, int]
"""Proportions of an image, width and height; its size in pixels will do."""

MAX_SIDE = 1_000_000  # of an image that the service reads
_ASPECT = re.compile(r"([0-9]{1,7}):([0-9]{1,7})")
_RANGE = f"two whole numbers from 1 to {MAX_SIDE:,}, such as 3:2 or 1920:1080"


def check_fit(fit: str) -> Fit:
    """Return `fit`; raise InvalidInput (BAD_REQUEST) unless crop or pad."""
    for known in FITS:
        if fit == known:
            return known
    raise InvalidInput("BAD_REQUEST", f"fit is one of {', '.join(FITS)}, not {str(fit)[:40]!r}")


def check_aspect(aspect: Aspect) -> Aspect:
    """Return `aspect`; raise InvalidInput (BAD_REQUEST) unless both sides are 1 to MAX_SIDE."""
    try:
        width, height = map(operator.index, aspect)
    except (TypeError, ValueError) as error:
        raise InvalidInput("BAD_REQUEST", f"an aspect is {_RANGE}, not {aspect!r:.40}") from error
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise InvalidInput("BAD_REQUEST", f"an aspect is {_RANGE}, not {f'{width}:{height}':.40}")
    return width, height


def parse_aspect(text: str) -> Aspect:
    """Read "3:2" or "1920:1080", width before height. Raises InvalidInput (BAD_REQUEST)."""
    sides = _ASPECT.fullmatch(text)
    if sides is None:
        raise InvalidInput("BAD_REQUEST", f"an aspect is {_RANGE}, not {text[:40]!r}")
    return check_aspect((int(sides[1]), int(sides[2])))
