"""measure_quality: SSIM and PSNR of images decoded from different numbers of tokens."""

from collections.abc import Sequence

import numpy as np
from channeltok.quality import QualityPoint
from numpy.typing import NDArray

from imaging.similarity import psnr, ssim


def measure_quality(
    original: NDArray[np.uint8], decoded: NDArray[np.uint8], ks: Sequence[int]
) -> list[QualityPoint]:
    """Compare each decoded image with the original.

    original: uint8 [S, S, 3]. decoded: uint8 [len(ks), S, S, 3]. ks: tokens of each image.
    """
    originals = np.broadcast_to(original, decoded.shape)
    points = zip(ks, ssim(originals, decoded), psnr(originals, decoded), strict=True)
    return [QualityPoint(k, float(similarity), float(ratio)) for k, similarity, ratio in points]
