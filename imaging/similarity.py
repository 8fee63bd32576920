"""Image similarity metrics: PSNR and SSIM."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # [N, H, W, 3]
Planes = NDArray[np.float32]  # [N, H, W]

SSIM_WINDOW = 11  # pixels: a Gaussian of 1.5 pixels, cut off at 3.5 times that
_SIGMA = 1.5
_MEAN_STABILITY, _VARIANCE_STABILITY = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_MIDDLE = np.float32(128)
_BLOCK = 30  # rows or columns that one matrix product filters; the fastest of 16 to 118


def psnr(photos: Images, images: Images) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image in dB: 10 log10(255^2 / mean squared error).

    uint8 [N, H, W, 3], or [1, H, W, 3] for one photo, and [N, H, W, 3], to float64 [N]. Equal
    images have 108.1 dB.
    """
    error = np.square(photos.astype(np.float64) - images).mean(axis=(1, 2, 3))
    ratio: NDArray[np.float64] = 10 * np.log10(255**2 / np.maximum(error, 1e-6))
    return ratio


def ssim(photos: Images, images: Images) -> NDArray[np.float64]:
    """Structural similarity of each image, at most 1.

    Wang, Bovik, Sheikh, Simoncelli 2004 with their settings: Gaussian window of 1.5 pixels, mean
    over the colours, and over all windows that lie in the image. In float32.

    Args:
        photos: uint8 [N, H, W, 3], or [1, H, W, 3] for one photo beside all images; H and W at
            least SSIM_WINDOW.
        images: uint8 [N, H, W, 3].

    Returns:
        float64 [N].

    Raises:
        ValueError: the images are smaller than the window.
    """
    if min(images.shape[1:3]) < SSIM_WINDOW:
        size = "x".join(map(str, images.shape[1:3]))
        raise ValueError(f"SSIM needs images of {SSIM_WINDOW} x {SSIM_WINDOW} pixels, not {size}")
    x, y = _planes(photos), _planes(images)
    mean_x, mean_y = _smooth(x), _smooth(y)
    variances = (_smooth(x * x) - mean_x * mean_x) + (_smooth(y * y) - mean_y * mean_y)
    covariance = _smooth(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + _MIDDLE, mean_y + _MIDDLE
    squares, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    similarity = (2 * product + _MEAN_STABILITY) * (2 * covariance + _VARIANCE_STABILITY)
    similarity /= (squares + _MEAN_STABILITY) * (variances + _VARIANCE_STABILITY)
    mean: NDArray[np.float64] = similarity.mean(axis=(1, 2, 3), dtype=np.float64)
    return mean


def _planes(images: Images) -> Planes:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] around 0, where squares lose fewer digits."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) - _MIDDLE


def _smooth(planes: Planes) -> Planes:
    """The window's mean at each of its places, [..., H, W] to [..., H - 10, W - 10].

    A product for each plane: equal planes then give equal means, to the bit.
    """
    *outer, height, width = planes.shape
    rows = np.empty((*outer, height - SSIM_WINDOW + 1, width), np.float32)
    for block in _blocks(rows.shape[-2]):
        source = planes[..., block.start : block.stop + SSIM_WINDOW - 1, :]
        np.matmul(_window_matrix(block.stop - block.start), source, out=rows[..., block, :])
    smooth = np.empty((*rows.shape[:-1], width - SSIM_WINDOW + 1), np.float32)
    for block in _blocks(smooth.shape[-1]):
        source = rows[..., block.start : block.stop + SSIM_WINDOW - 1]
        np.matmul(source, _window_matrix(block.stop - block.start).T, out=smooth[..., block])
    return smooth


def _blocks(length: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]


@cache
def _window_matrix(length: int) -> Planes:
    """[length, length + 10]: row i holds the window from column i on."""
    places = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-np.square(places) / (2 * _SIGMA**2))
    matrix = np.zeros((length, length + SSIM_WINDOW - 1), np.float32)
    for row in range(length):
        matrix[row, row : row + SSIM_WINDOW] = window / window.sum()
    return matrix
