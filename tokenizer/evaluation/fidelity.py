"""How near an image is to the photo it was made from, without any network: PSNR, SSIM, and whether the decoder left a grid."""

import numpy as np
from numpy.typing import NDArray

from imaging.similarity import Images, psnr, ssim

__all__ = ["Images", "grid_energy", "l1", "psnr", "ssim"]
_BT601 = np.array([0.299, 0.587, 0.114])


def l1(photos: Images, images: Images) -> NDArray[np.float64]:
    """Mean absolute difference of each image on pixels in [0, 1]. Two uint8 [N, H, W, 3] to [N]."""
    return np.abs(photos.astype(np.float64) - images).mean(axis=(1, 2, 3)) / 255


def grid_energy(images: Images, stride: int) -> float:
    """Power of brightness at the frequencies of a grid of `stride` pixels over the power at frequencies close by, mean over its harmonics.

    A decoder that works in blocks of `stride` pixels and does not join them well repeats an error every `stride` pixels: a line in the
    spectrum. Photos have about 1. images: uint8 [N, S, S, 3], S a multiple of stride and at least 8 times as long.
    """
    brightness = images @ _BT601
    size = brightness.shape[1]
    if size % stride or size < 8 * stride:
        raise ValueError(
            f"images of {size} pixels are too small for a grid of {stride}: at least {8 * stride} and a multiple are needed"
        )
    lines = np.concatenate([brightness, brightness.transpose(0, 2, 1)])
    lines = (lines - lines.mean(axis=2, keepdims=True)) * np.hanning(
        size
    )  # the window keeps the image's edges out of the spectrum
    power = np.square(np.abs(np.fft.rfft(lines, axis=2))).mean(axis=(0, 1))
    harmonics = np.arange(size // stride, size // 2 + 1, size // stride)
    # The window spreads a line over two bins each way; the next ones tell what a photo would have there. Lines are 8 bins apart at least.
    beside = [
        [h + sign * d for d in (3, 4) for sign in (-1, 1) if h + sign * d <= size // 2]
        for h in harmonics
    ]
    return float(
        np.mean([power[h] / power[bins].mean() for h, bins in zip(harmonics, beside, strict=True)])
    )
