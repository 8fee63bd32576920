"""EfficientNet distance ranks damage; the Frechet distance is right where it is known."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from imaging import prepare
from tests.support.photographs import crops
from tokenizer.evaluation.efficientnet_distance import (
    distances,
    frechet,
    frechet_of_halves,
    measure,
)

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


def test_distance_grows_with_damage(photos: NDArray[np.uint8]) -> None:
    ruled = photos.copy()
    ruled[:, :, ::4] //= 2  # a grid: trunks with blurred pooling forgive it
    found, pooled = measure(photos, [photos, blurred(photos, 1), blurred(photos, 3), ruled])
    assert found.shape == (4, 6)
    assert pooled.shape == (5, 6, 112)
    assert (found[0] == 0).all()
    assert (found[1] > 0).all()
    assert (found[1] < found[2]).all()
    assert (found[1] < found[3]).all()


def test_distance_of_an_image_does_not_depend_on_its_batch(photos: NDArray[np.uint8]) -> None:
    versions = blurred(photos, 2)
    together, _ = measure(photos, [versions])
    alone = [measure(photos[i : i + 1], [versions[i : i + 1]])[0][0, 0] for i in range(len(photos))]
    assert together[0] == pytest.approx(alone, rel=1e-4)
    assert distances(photos[0], versions[:2])[0] == pytest.approx(alone[0], rel=1e-4)


def test_frechet_of_gaussians_by_hand() -> None:
    """Diagonal covariances: the sum of squared differences of means and standard deviations."""
    random = np.random.default_rng(0).standard_normal((200_000, 3))
    a, b = random * (1, 2, 3), random[::-1] * (2, 2, 1) + (0, 1, 0)
    assert frechet(a, b) == pytest.approx(1 + 0 + 4 + 1, rel=0.02)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_of_halves_exceeds_the_floor_for_lossy_images() -> None:
    real = np.random.default_rng(1).standard_normal((400, 8))
    floor = frechet_of_halves(real, real)
    assert floor == pytest.approx(frechet(real[::2], real[1::2]))
    assert frechet_of_halves(real, 0.5 * real) > 2 * floor


def test_training_never_imports_the_evaluation_network() -> None:
    """Otherwise a loss could use its features."""
    command = [sys.executable, "-X", "importtime", "-m", "tokenizer.train", "--help"]
    imports = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "tokenizer.training.losses" in imports
    assert "efficientnet" not in imports
