"""pad_prefixes: token ids cut to k and padded to the input width of a decoder or generator."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PADDING = -1


def pad_prefixes(ids: NDArray[np.uint16], ks: Sequence[int], width: int) -> NDArray[np.int32]:
    """For each k the first k of `ids`, padded with -1: int32 [len(ks), width]."""
    padded = np.full((len(ks), width), _PADDING, np.int32)
    for row, k in zip(padded, ks, strict=True):
        row[:k] = ids[:k]
    return padded
