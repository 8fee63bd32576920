"""Training losses: values, schedules, and no network without a weight."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import Tensor

from imaging import prepare
from tests.support.photographs import crops
from tests.support.training import recipe_without_data
from tokenizer.inference import to_unit
from tokenizer.models.blocks import parameter_count
from tokenizer.training.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from tokenizer.training.losses import TrainingLosses, ssim
from tokenizer.training.perceptual import Perceptual, Trunk


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return to_unit(torch.from_numpy(np.stack([prepare(data, 64) for data in crops(4)])))


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_perceptual_distance_is_zero_for_the_original_and_grows_with_damage(
    trunk: Trunk, photos: Tensor
) -> None:
    perceptual = Perceptual(trunk)
    assert not any(weight.requires_grad for weight in perceptual.parameters())
    blurred, more = F.avg_pool2d(photos, 3, 1, 1), F.avg_pool2d(photos, 9, 1, 4)
    assert perceptual(photos, photos).tolist() == [0, 0, 0, 0]
    assert (perceptual(blurred, photos) > 0).all()
    assert (perceptual(blurred, photos) < perceptual(more, photos)).all()


def test_perceptual_distance_has_imagenet_features(photos: Tensor) -> None:
    """A little noise is nearer than another photo: not so with weights in a wrong order."""
    perceptual = Perceptual("alex")
    noise = (
        photos + 0.03 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(-1, 1)
    assert (perceptual(noise, photos) < 0.7 * perceptual(photos.roll(1, 0), photos)).all()


def test_discriminator_has_the_papers_size() -> None:
    discriminator = PatchDiscriminator()
    assert parameter_count(discriminator) == 2_766_529
    assert discriminator(torch.zeros(2, 3, 128, 128)).shape == (2, 1, 14, 14)


def test_hinge_losses_by_hand() -> None:
    photos, images = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert discriminator_loss(photos, images).item() == pytest.approx(0.5 * (0.5 + 1.0))
    assert generator_loss(images).item() == pytest.approx(1.0)


def test_losses_of_pixels_alone_load_no_network(photos: Tensor) -> None:
    losses = TrainingLosses(recipe_without_data(l1_weight=2.0))
    assert list(losses.parameters()) == []
    assert losses.image_loss(photos, photos + 0.25, 0).item() == pytest.approx(0.5)


def test_perceptual_loss_crops_at_another_offset_each_time(photos: Tensor) -> None:
    losses = TrainingLosses(recipe_without_data(l1_weight=0, perceptual_weight=1.0))
    grid = photos.clone()
    grid[:, :, ::4, ::4] += 0.5
    values = {round(losses.image_loss(photos, grid, 0).item(), 6) for _ in range(8)}
    assert len(values) > 1


def test_losses_begin_at_the_samples_of_the_recipe(photos: Tensor) -> None:
    losses = TrainingLosses(
        recipe_without_data(
            l1_weight=0, perceptual_weight=1.0, perceptual_from=100, gan_weight=0.5, gan_from=200
        )
    )
    worse = F.avg_pool2d(photos, 5, 1, 2).requires_grad_()

    def loss_at_one_offset(samples_seen: int) -> Tensor:
        torch.manual_seed(0)
        return losses.image_loss(photos, worse, samples_seen)

    before, perceptual, both = map(loss_at_one_offset, (99, 100, 200))
    assert before.item() == 0
    assert perceptual.item() > 0
    assert both.item() != perceptual.item()
    both.backward()
    assert worse.grad is not None
    assert worse.grad.abs().sum() > 0
    assert losses.discriminator is not None
    # the discriminator trains in its own step only
    assert all(weight.grad is None for weight in losses.discriminator.parameters())
    losses.discriminator_loss(photos, worse).backward()
    assert all(weight.grad is not None for weight in losses.discriminator.parameters())


def test_ssim_equals_scikit_image(photos: Tensor) -> None:
    noisy = photos + 0.2 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))
    settings = {"channel_axis": 0, "data_range": 2, "use_sample_covariance": False, "full": True}
    maps = [
        structural_similarity(a, b, **settings)[1]
        for a, b in zip(photos.numpy(), noisy.numpy(), strict=True)
    ]
    whole_windows = np.mean([each[:, 3:-3, 3:-3] for each in maps])
    assert ssim(photos, noisy).item() == pytest.approx(whole_windows, abs=1e-4)
    assert ssim(photos, photos).item() == pytest.approx(1)


def test_ssim_weight_counts_one_minus_ssim(photos: Tensor) -> None:
    blurred = F.avg_pool2d(photos, 3, 1, 1)
    loss = TrainingLosses(recipe_without_data(l1_weight=0, ssim_weight=0.3)).image_loss(
        photos, blurred, 0
    )
    assert loss.item() == pytest.approx(0.3 * (1 - ssim(photos, blurred).item()))
