"""The judge ranks as the eye does, and its Frechet distance is right where it is known."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from imaging import prepare
from tests.support.photographs import crops
from tokenizer.evaluation.efficientnet_distance import distances, frechet, frechet_of_halves, judge

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def photos() -> NDArray[np.uint8]:
    return np.stack([prepare(data, 128) for data in crops(6)])


def blurred(photos: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    return np.stack(
        [
            np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(radius)))
            for photo in photos
        ]
    )


def test_more_damage_is_further_away(photos: NDArray[np.uint8]) -> None:
    ruled = photos.copy()
    ruled[:, :, ::4] //= 2  # a grid: trunks with blurred pooling forgive it
    found, pooled = judge(photos, [photos, blurred(photos, 1), blurred(photos, 3), ruled])
    assert found.shape == (4, 6)
    assert pooled.shape == (5, 6, 112)
    assert (found[0] == 0).all()
    assert (found[1] > 0).all()
    assert (found[1] < found[2]).all()
    assert (found[1] < found[3]).all()


def test_an_image_is_judged_alike_in_any_company(photos: NDArray[np.uint8]) -> None:
    versions = blurred(photos, 2)
    together, _ = judge(photos, [versions])
    alone = [judge(photos[i : i + 1], [versions[i : i + 1]])[0][0, 0] for i in range(len(photos))]
    assert together[0] == pytest.approx(alone, rel=1e-4)
    assert distances(photos[0], versions[:2])[0] == pytest.approx(alone[0], rel=1e-4)


def test_frechet_of_gaussians_by_hand() -> None:
    """Diagonal covariances: sum of (difference of means)^2 + (difference of standard deviations)^2."""
    random = np.random.default_rng(0).standard_normal((200_000, 3))
    a, b = random * (1, 2, 3), random[::-1] * (2, 2, 1) + (0, 1, 0)
    assert frechet(a, b) == pytest.approx(1 + 0 + 4 + 1, rel=0.02)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_what_a_tokenizer_loses_is_above_the_floor() -> None:
    real = np.random.default_rng(1).standard_normal((400, 8))
    floor = frechet_of_halves(real, real)
    assert floor == pytest.approx(frechet(real[::2], real[1::2]))
    assert frechet_of_halves(real, 0.5 * real) > 2 * floor


def test_no_loss_has_seen_the_judge() -> None:
    """Training imports neither this module nor its network."""
    code = "import sys, tokenizer.train; print([name for name in sys.modules if 'efficientnet' in name or 'independent_judge' in name])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
