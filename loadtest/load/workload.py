"""Workload of the locust users: random images and budgets (k), and checks of the answers.

Images are those of docs/images, resized once to widths that are common in image data sets;
enlarged, they have fewer bytes than photos taken at that size. The shares of widths and budgets are
assumptions.
"""

import io
import random

import numpy as np
from channeltok import Tokens
from PIL import Image

from loadtest.harness import images

SHARE_OF_WIDTH = {
    256: 0.20,  # shrunk before sending
    500: 0.30,  # ImageNet's most frequent
    640: 0.30,  # COCO's longest side
    1024: 0.15,  # Open Images' longest side
    2048: 0.05,  # unscaled from a camera or photo site
}
SHARE_OF_BUDGET = {32: 0.2, 64: 0.4, 128: 0.2, 256: 0.2}
FULL = max(SHARE_OF_BUDGET)


class Failure(Exception):
    """Why a call failed; reports count failures by this message."""

    def __repr__(self) -> str:  # shown in reports
        return str(self)


class Workload:
    """Draws requests and checks answers; one per process."""

    def __init__(self) -> None:
        self._images = {width: images.scaled(width) for width in SHARE_OF_WIDTH}
        self._tokens: dict[bytes, Tokens] = {}
        self.image_size: int | None = None

    def draw_image(self) -> bytes:
        """A random JPEG; widths are drawn by their shares."""
        (width,) = random.choices(list(SHARE_OF_WIDTH), list(SHARE_OF_WIDTH.values()))
        return random.choice(self._images[width])

    def draw_budget(self) -> int:
        """A random k, drawn by its share."""
        (k,) = random.choices(list(SHARE_OF_BUDGET), list(SHARE_OF_BUDGET.values()))
        return k

    def known_tokens(self, image: bytes) -> Tokens | None:
        """The image's FULL tokens, if an earlier answer had them."""
        tokens = self._tokens.get(image)
        return tokens if tokens is not None and tokens.k >= FULL else None

    def check_tokens(self, image: bytes, k: int, tokens: Tokens) -> None:
        """Raises Failure unless there are k tokens that agree with earlier answers for `image`."""
        if tokens.k != k:
            raise Failure(f"wrong answer: {tokens.k} ids, not {k}")
        known = self._tokens.get(image)
        # After an update of the service, other tokens are right.
        if known is None or known.fingerprint != tokens.fingerprint:
            self._tokens[image] = tokens
            return
        shared = min(k, known.k)
        if not np.array_equal(tokens.ids[:shared], known.ids[:shared]):
            raise Failure("wrong answer: not the ids of an earlier answer")
        if k > known.k:
            self._tokens[image] = tokens

    def check_image(self, image: bytes) -> None:
        """Raises Failure unless `image` is a complete JPEG of the tokenizer's image size."""
        try:
            with Image.open(io.BytesIO(image), formats=["JPEG"]) as opened:
                opened.load()
        except (OSError, ValueError) as error:
            raise Failure("wrong answer: not a JPEG") from error
        if opened.size != (self.image_size, self.image_size):
            size = f"{opened.width} x {opened.height} pixels"
            raise Failure(f"wrong answer: {size}, not {self.image_size} square")
