"""What the load is made of, whoever sends it: photos, budgets, and what a right answer is.

Photos are those of docs/images, resized once. Their widths are those of the sets that tokenizers are fed with; enlarged, they have fewer
bytes than photos taken at that size. The shares, of widths as of budgets, are assumptions.
"""

import io
import random
from pathlib import Path

import numpy as np
from channeltok import Tokens
from PIL import Image

IMAGES = Path(__file__).parents[2] / "docs/images"
SHARE_OF_WIDTH = {
    256: 0.20,  # shrunk before sending
    500: 0.30,  # ImageNet's most frequent
    640: 0.30,  # COCO's longest side
    1024: 0.15,  # Open Images' longest side
    2048: 0.05,  # sent as a camera or a photo site gave it
}
SHARE_OF_BUDGET = {32: 0.2, 64: 0.4, 128: 0.2, 256: 0.2}
FULL = max(SHARE_OF_BUDGET)


class Failure(Exception):
    """Why a call failed, in the few words under which reports count it."""

    def __repr__(self) -> str:  # reports show this
        return str(self)


class Workload:
    """Draws requests and checks answers; one for each process."""

    def __init__(self) -> None:
        images = [Image.open(path) for path in sorted(IMAGES.glob("*.jpg"))]
        self._photos = {
            width: [_jpeg(image, width) for image in images] for width in SHARE_OF_WIDTH
        }
        self._tokens: dict[bytes, Tokens] = {}
        self.image_size: int | None = None

    def draw_photo(self) -> bytes:
        """A JPEG, of a width by its share."""
        (width,) = random.choices(list(SHARE_OF_WIDTH), list(SHARE_OF_WIDTH.values()))
        return random.choice(self._photos[width])

    def draw_budget(self) -> int:
        """A k, by its share."""
        (k,) = random.choices(list(SHARE_OF_BUDGET), list(SHARE_OF_BUDGET.values()))
        return k

    def known_tokens(self, photo: bytes) -> Tokens | None:
        """The photo's FULL tokens, once they were answered."""
        tokens = self._tokens.get(photo)
        return tokens if tokens is not None and tokens.k >= FULL else None

    def check_tokens(self, photo: bytes, k: int, tokens: Tokens) -> None:
        """Raises Failure unless there are k of them and they agree with all that was answered before for this photo."""
        if tokens.k != k:
            raise Failure(f"wrong answer: {tokens.k} ids, not {k}")
        known = self._tokens.get(photo)
        if (
            known is None or known.fingerprint != tokens.fingerprint
        ):  # a service that was updated meanwhile makes other tokens
            self._tokens[photo] = tokens
            return
        shared = min(k, known.k)
        if not np.array_equal(tokens.ids[:shared], known.ids[:shared]):
            raise Failure("wrong answer: not the ids of an earlier answer")
        if k > known.k:
            self._tokens[photo] = tokens

    def check_image(self, image: bytes) -> None:
        """Raises Failure unless it is a whole JPEG of the size that the tokenizer makes."""
        try:
            with Image.open(io.BytesIO(image), formats=["JPEG"]) as opened:
                opened.load()
        except (OSError, ValueError) as error:
            raise Failure("wrong answer: not a JPEG") from error
        if opened.size != (self.image_size, self.image_size):
            raise Failure(
                f"wrong answer: {opened.width} x {opened.height} pixels, not {self.image_size} square"
            )


def _jpeg(image: Image.Image, width: int) -> bytes:
    buffer = io.BytesIO()
    height = round(image.height * width / image.width)
    image.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
