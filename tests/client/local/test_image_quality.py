import numpy as np
import pytest
from channeltok.local.image_quality import measure_quality

import imaging
from imaging.fit import content_box


def test_measure_quality_gives_one_point_per_decoded_image() -> None:
    original = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    worse = np.clip(original.astype(int) + 20, 0, 255).astype(np.uint8)
    bad, good = measure_quality(original, np.stack([worse, original]), [4, 8])
    assert (bad.k, good.k) == (4, 8)
    assert bad.ssim < good.ssim == 1.0
    assert bad.psnr < good.psnr


@pytest.mark.parametrize("aspect", [(3, 1), (1, 3), (4, 3)])
def test_measure_quality_ignores_the_bands_of_a_padded_image(aspect: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    original, decoded = random.integers(0, 256, (2, 64, 64, 3), np.uint8)
    left, top, right, bottom = content_box(*aspect, 64)
    decoded[top:bottom, left:right] = original[top:bottom, left:right]
    (point,) = measure_quality(original, decoded[None], [4], aspect)
    assert point.ssim == 1.0
    assert point.psnr > 100
    decoded[top, left] ^= 255
    (point,) = measure_quality(original, decoded[None], [4], aspect)
    content = imaging.crop_to_aspect(decoded, *aspect).astype(float)
    error = np.square(content - imaging.crop_to_aspect(original, *aspect)).mean()
    assert point.psnr == pytest.approx(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("aspect", [(500, 1), (1, 12), (2**32 - 1, 1)])
def test_measure_quality_of_an_image_thinner_than_the_window(aspect: tuple[int, int]) -> None:
    original = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    worse = np.clip(original.astype(int) + 20, 0, 255).astype(np.uint8)
    bad, good = measure_quality(original, np.stack([worse, original]), [4, 8], aspect)
    assert bad.ssim < good.ssim == 1.0
