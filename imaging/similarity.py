"""Image similarity metrics: PSNR and SSIM."""

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Images = NDArray[np.uint8]  # [N, H, W, 3]


def psnr(photos: Images, images: Images) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image in dB: 10 log10(255^2 / mean squared error).

    Two uint8 [N, H, W, 3] to float64 [N]. Equal images have 108.1 dB.
    """
    error = np.square(photos.astype(np.float64) - images).mean(axis=(1, 2, 3))
    ratio: NDArray[np.float64] = 10 * np.log10(255**2 / np.maximum(error, 1e-6))
    return ratio


def ssim(photos: Images, images: Images) -> NDArray[np.float64]:
    """Structural similarity of each image, at most 1. Two uint8 [N, H, W, 3] to float64 [N].

    Wang, Bovik, Sheikh, Simoncelli 2004 with their settings: Gaussian window of 1.5 pixels, mean
    over the colours.
    """
    settings = {
        "channel_axis": 2,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 255,
    }
    return np.array(
        [structural_similarity(a, b, **settings) for a, b in zip(photos, images, strict=True)]
    )
