import numpy as np

from service.core.quality import measure_quality


def test_measure_quality_gives_one_point_per_decoded_image() -> None:
    original = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    worse = np.clip(original.astype(int) + 20, 0, 255).astype(np.uint8)
    bad, good = measure_quality(original, np.stack([worse, original]), [4, 8])
    assert (bad.k, good.k) == (4, 8)
    assert bad.ssim < good.ssim == 1.0
    assert bad.psnr < good.psnr
