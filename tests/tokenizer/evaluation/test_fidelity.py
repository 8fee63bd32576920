"""PSNR, SSIM and the grid, by hand and on photographs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from imaging import prepare
from tests.support.photographs import crops
from tokenizer.evaluation.fidelity import grid_energy, l1, psnr, ssim


@pytest.fixture(scope="module")
def photos() -> NDArray[np.uint8]:
    return np.stack([prepare(data, 128) for data in crops(8)])


def test_psnr_by_hand() -> None:
    black = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    assert psnr(black, black + 1) == pytest.approx([48.13, 48.13], abs=0.01)
    assert psnr(black, black + 255) == pytest.approx([0.0, 0.0])


def test_l1_by_hand() -> None:
    black = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    assert l1(black, black + 51) == pytest.approx([0.2])


def test_ssim_is_one_for_the_original_and_measures_structure(
    photos: NDArray[np.uint8],
) -> None:
    assert ssim(photos, photos) == pytest.approx(np.ones(len(photos)))
    brighter = np.clip(photos.astype(int) + 10, 0, 255).astype(np.uint8)
    noise = np.random.default_rng(0).choice([-10, 10], photos.shape)  # the same mean squared error
    noisy = np.clip(photos.astype(int) + noise, 0, 255).astype(np.uint8)
    assert (ssim(photos, brighter) > ssim(photos, noisy)).all()


@pytest.mark.parametrize("stride", [2, 4, 8, 16])
def test_grid_energy_detects_a_grid_at_its_stride(photos: NDArray[np.uint8], stride: int) -> None:
    """Photos have about 1. Columns brighter by 10 of 255 show; at stride 16, by 20."""
    assert 0.7 < grid_energy(photos, stride) < 1.4
    ruled = photos.astype(int)
    ruled[:, :, ::stride] += 20 if stride == 16 else 10
    ruled = np.clip(ruled, 0, 255).astype(np.uint8)
    assert grid_energy(ruled, stride) > 2 * grid_energy(photos, stride)


def test_grid_energy_refuses_small_images() -> None:
    with pytest.raises(ValueError, match="at least 32 and a multiple are needed"):
        grid_energy(np.zeros((1, 16, 16, 3), dtype=np.uint8), 4)
