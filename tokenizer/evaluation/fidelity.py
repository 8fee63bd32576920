"""Fidelity metrics of decoded images without a network: PSNR, SSIM, L1, and the decoder's grid."""

import numpy as np
from numpy.typing import NDArray

from imaging.similarity import Images, psnr, ssim

__all__ = ["Images", "grid_energy", "l1", "psnr", "ssim"]
_BT601 = np.array([0.299, 0.587, 0.114])


def l1(photos: Images, images: Images) -> NDArray[np.float64]:
    """Mean absolute error of each image, pixels in [0, 1]. Two uint8 [N, H, W, 3] to [N]."""
    return np.abs(photos.astype(np.float64) - images).mean(axis=(1, 2, 3)) / 255


def grid_energy(images: Images, stride: int) -> float:
    """Spectral power at the harmonics of a grid of `stride` pixels, relative to nearby frequencies.

    A decoder that writes blocks of `stride` pixels and joins them badly repeats an error every
    `stride` pixels: a line in the spectrum. Photos have about 1. images: uint8 [N, S, S, 3], S a
    multiple of stride and at least 8 times as long. Raises ValueError for other sizes.
    """
    brightness = images @ _BT601
    size = brightness.shape[1]
    if size % stride or size < 8 * stride:
        raise ValueError(
            f"images of {size} pixels do not suit a grid of {stride}: at least {8 * stride} and a "
            "multiple are needed"
        )
    lines = np.concatenate([brightness, brightness.transpose(0, 2, 1)])
    # The window keeps the image's edges out of the spectrum.
    lines = (lines - lines.mean(axis=2, keepdims=True)) * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(lines, axis=2))).mean(axis=(0, 1))
    harmonics = np.arange(size // stride, size // 2 + 1, size // stride)
    # The window spreads a line over two bins each way; the next ones estimate the power without a
    # grid. Lines are at least 8 bins apart.
    nearby = [
        [h + sign * d for d in (3, 4) for sign in (-1, 1) if h + sign * d <= size // 2]
        for h in harmonics
    ]
    return float(
        np.mean([power[h] / power[bins].mean() for h, bins in zip(harmonics, nearby, strict=True)])
    )
