"""Tokens and token bytes: a self-describing format, version 1 (docs/token-bytes.md).

| offset | bytes | field                                               |
|--------|-------|-----------------------------------------------------|
| 0      | 4     | magic `CTOK`                                        |
| 4      | 1     | version of the format: 1                            |
| 5      | 1     | reserved, 0                                         |
| 6      | 2     | k, little-endian uint16, 1 to 65535                 |
| 8      | 8     | fingerprint of the tokenizer                        |
| 16     | 2k    | the ids, little-endian uint16, coarse to fine       |

The service reads and writes tokens with this module too, so it imports only numpy.
"""

import operator
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from channeltok.quality import QualityPoint

MAGIC = b"CTOK"
VERSION = 1
HEADER_BYTES = 16
MAX_K = 65_535
MAX_ID = 65_535

_HEADER = struct.Struct("<4sBBH8s")
_FINGERPRINT = re.compile("[0-9a-f]{16}")


class TokenBytesError(ValueError):
    """These are not token bytes of version 1; the message says what is wrong."""


@dataclass(frozen=True)
class ImageView:
    """What a tokenizer saw of an image.

    Attributes:
        width, height: of the whole image in its own pixels, upright: after its EXIF rotation.
        left, top, right, bottom: the part that was seen, in those pixels from the top left corner;
            half pixels where the margins are odd. With `fit="pad"` the whole image.
    """

    width: int
    height: int
    left: float
    top: float
    right: float
    bottom: float

    @property
    def aspect(self) -> tuple[int, int]:
        """Proportions of the part that was seen: its width and height in pixels."""
        return round(self.right - self.left), round(self.bottom - self.top)


@dataclass(frozen=True, eq=False)
class Tokens:
    """The first k tokens of an image, coarse to fine, and the tokenizer that made them.

    Attributes:
        ids: uint16 [k], 1 <= k <= 65535, read-only. Pass any 1-D sequence of integers from 0 to
            65535; it is copied.
        fingerprint: 16 lower-case hex digits that identify the tokenizer's training.
        curve: where a `Quality` chose k, the quality at every k tried, ascending. Ignored by
            comparison and not part of the token bytes.
        view: what the tokenizer saw of the image; None where that is not known. Ignored and left
            out like `curve`. Decoding gives the image these proportions.

    Raises:
        ValueError: for anything else; nothing is rounded or wrapped to fit.
    """

    ids: NDArray[np.uint16]
    fingerprint: str
    curve: tuple[QualityPoint, ...] = ()
    view: ImageView | None = None

    def __post_init__(self) -> None:
        if not _FINGERPRINT.fullmatch(self.fingerprint):
            raise ValueError(f"a fingerprint is 16 lower-case hex digits, not {self.fingerprint!r}")
        object.__setattr__(self, "ids", _checked(self.ids))

    @property
    def k(self) -> int:
        """Number of tokens, 1 to 65535."""
        return len(self.ids)

    @property
    def aspect(self) -> tuple[int, int] | None:
        """Proportions of what was seen, width and height; None without a view."""
        return None if self.view is None else self.view.aspect

    def prefix(self, k: int) -> Self:
        """The first k tokens: those of the same image at a smaller budget.

        Raises ValueError unless 1 <= k <= self.k.
        """
        k = operator.index(k)
        if not 1 <= k <= self.k:
            raise ValueError(f"the k of a prefix is 1 to {self.k} here, not {k}")
        return type(self)(self.ids[:k], self.fingerprint, view=self.view)

    def to_bytes(self) -> bytes:
        """The token bytes, 16 + 2k of them."""
        header = _HEADER.pack(MAGIC, VERSION, 0, self.k, bytes.fromhex(self.fingerprint))
        return header + self.ids.astype("<u2", copy=False).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read token bytes. Raises TokenBytesError."""
        data = bytes(data)
        if not data:
            raise TokenBytesError(
                f"the token bytes are empty: their header has {HEADER_BYTES} bytes"
            )
        if len(data) < HEADER_BYTES:
            raise TokenBytesError(
                f"the token bytes end after {len(data)} bytes: the header has {HEADER_BYTES}"
            )
        magic, version, reserved, k, fingerprint = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise TokenBytesError(
                f"these are not token bytes: they begin with {magic!r}, not {MAGIC!r}"
            )
        if version != VERSION:
            raise TokenBytesError(
                f"the token bytes are of version {version}: this release reads version {VERSION}"
            )
        if reserved != 0:
            raise TokenBytesError(
                f"the reserved byte of the token bytes is {reserved}: in version {VERSION} it is 0"
            )
        if k == 0:
            raise TokenBytesError(f"the token bytes say k = 0: k is 1 to {MAX_K}")
        if len(data) != HEADER_BYTES + 2 * k:
            raise TokenBytesError(
                f"the token bytes are {len(data)} long: "
                f"with k = {k} they are exactly {HEADER_BYTES + 2 * k}"
            )
        return cls(np.frombuffer(data, "<u2", offset=HEADER_BYTES), fingerprint.hex())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        return self.fingerprint == other.fingerprint and np.array_equal(self.ids, other.ids)

    def __hash__(self) -> int:
        return hash((self.fingerprint, self.ids.tobytes()))


def _checked(ids: NDArray[np.integer[Any]] | Sequence[int]) -> NDArray[np.uint16]:
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"token ids are one-dimensional, [k], not of shape {array.shape}")
    if not 1 <= array.size <= MAX_K:
        raise ValueError(f"there are 1 to {MAX_K} tokens, not {array.size}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"token ids are integers, not {array.dtype}")
    if array.dtype != np.uint16:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > MAX_ID:
            raise ValueError(f"token ids are 0 to {MAX_ID}, not {low if low < 0 else high}")
    # A copy: the owner of the array must not be able to change checked tokens.
    checked = array.astype(np.uint16)
    checked.flags.writeable = False
    return checked
