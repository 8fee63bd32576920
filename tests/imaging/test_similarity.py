"""SSIM against scikit-image's."""

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data
from skimage.metrics import structural_similarity

from imaging.similarity import SSIM_WINDOW, ssim

PHOTO = data.astronaut()


def reference(photo: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    value: float = structural_similarity(
        photo,
        image,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    return value


def noisy(photo: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, deviation, photo.shape)
    return np.clip(photo + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width"), [(128, 128), (256, 256), (11, 11), (12, 300), (71, 41)]
)
def test_ssim_is_that_of_scikit_image(height: int, width: int) -> None:
    photo = PHOTO[60 : 60 + height, 90 : 90 + width]
    images = np.stack([noisy(photo, deviation) for deviation in (0, 1, 5, 20, 80)])
    expected = [reference(photo, image) for image in images]
    assert ssim(photo[None], images) == pytest.approx(expected, abs=1e-5)
    pairs = np.broadcast_to(photo, images.shape)
    assert ssim(pairs, images) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_flat_and_opposite_images() -> None:
    """Where all variances are 0, and where float32 sums are largest."""
    black, white = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 64, 64, 3), 255, np.uint8)
    assert ssim(white, white) == pytest.approx([1], abs=1e-5)
    assert ssim(black, white) == pytest.approx([reference(black[0], white[0])], abs=1e-5)
    board = np.indices((64, 64)).sum(0)[None, :, :, None] % 2 * np.full(3, 255)
    board = board.astype(np.uint8)
    assert ssim(board, 255 - board) == pytest.approx(
        [reference(board[0], 255 - board[0])], abs=1e-5
    )


def test_ssim_refuses_images_below_its_window() -> None:
    small = np.zeros((1, SSIM_WINDOW - 1, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="11 x 11 pixels, not 10x20"):
        ssim(small, small)
