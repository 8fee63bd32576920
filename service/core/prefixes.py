"""The first k tokens as a decoder takes them, and what images they make."""

from collections.abc import Sequence

import numpy as np
from channeltok.quality import QualityPoint
from numpy.typing import NDArray

from imaging.similarity import psnr, ssim

_ABSENT = -1


def prefixes(ids: NDArray[np.uint16], budgets: Sequence[int], width: int) -> NDArray[np.int32]:
    """For each of `budgets` the first k of `ids`, the rest of `width` absent: int32 [len(budgets), width]."""
    padded = np.full((len(budgets), width), _ABSENT, np.int32)
    for row, k in zip(padded, budgets, strict=True):
        row[:k] = ids[:k]
    return padded


def measured(
    original: NDArray[np.uint8], decoded: NDArray[np.uint8], budgets: Sequence[int]
) -> list[QualityPoint]:
    """How like the original each image is. original: uint8 [S, S, 3]. decoded: uint8 [len(budgets), S, S, 3]."""
    originals = np.broadcast_to(original, decoded.shape)
    both = zip(budgets, ssim(originals, decoded), psnr(originals, decoded), strict=True)
    return [QualityPoint(k, float(likeness), float(ratio)) for k, likeness, ratio in both]
