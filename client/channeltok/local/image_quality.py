"""measure_quality: SSIM and PSNR of images decoded from different numbers of tokens."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from channeltok.fit import Aspect
from channeltok.quality import QualityPoint
from imaging.fit import content_box
from imaging.similarity import SSIM_WINDOW, psnr, ssim


def measure_quality(
    original: NDArray[np.uint8],
    decoded: NDArray[np.uint8],
    ks: Sequence[int],
    aspect: Aspect = (1, 1),
) -> list[QualityPoint]:
    """Compare each decoded image with the original.

    original: uint8 [S, S, 3]. decoded: uint8 [len(ks), S, S, 3]. ks: tokens of each image.
    aspect: proportions of an image that was padded; the bands beside it do not count, except where
    the image is thinner than the window of SSIM.
    """
    left, top, right, bottom = content_box(*aspect, len(original))
    margin = (len(original) - SSIM_WINDOW) // 2
    rows = slice(min(top, margin), max(bottom, len(original) - margin))
    columns = slice(min(left, margin), max(right, len(original) - margin))
    decoded = decoded[:, rows, columns]
    originals = original[None, rows, columns]
    points = zip(ks, ssim(originals, decoded), psnr(originals, decoded), strict=True)
    return [QualityPoint(k, float(similarity), float(ratio)) for k, similarity, ratio in points]
