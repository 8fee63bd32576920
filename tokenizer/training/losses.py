"""What a training step minimises: the sum of a recipe's losses for the tokenizer, and the discriminator's own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.models.bsq import CODE, factorised_entropy
from tokenizer.training.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from tokenizer.training.perceptual import Perceptual
from tokenizer.training.recipe import Recipe

SSIM_WINDOW = 7  # pixels
GRID = 4  # pixels: the stride of AlexNet's first convolution, and of our decoder's last layer


class Objective(nn.Module):
    """The losses of a recipe. A network that the recipe gives no weight is never loaded."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.perceptual = Perceptual(recipe.perceptual_trunk) if recipe.perceptual_weight else None
        self.discriminator = PatchDiscriminator() if recipe.gan_weight else None

    def tokenizer_loss(
        self, pixels: Tensor, reconstruction: Tensor, unit: Tensor, active: Tensor, views: int
    ) -> Tensor:
        """Scalar to minimise over the tokenizer. Arguments as ChannelTok.forward takes and returns them; views: photos seen before."""
        recipe = self.recipe
        loss = self.image_loss(pixels, reconstruction, views)
        if recipe.entropy_weight:
            entropy = factorised_entropy(unit, active)
            loss = loss + recipe.entropy_weight * (entropy.per_sample - entropy.batch)
        if recipe.commitment_weight:
            kept = unit.float()[active]
            loss = loss + recipe.commitment_weight * F.mse_loss(kept, kept.sign() * CODE)
        return loss

    def image_loss(self, pixels: Tensor, reconstruction: Tensor, views: int) -> Tensor:
        """The part that looks at images alone, whatever made them: pixels, features, adversary. Scalar."""
        recipe = self.recipe
        reconstruction = reconstruction.float()
        loss = recipe.l1_weight * F.l1_loss(reconstruction, pixels)
        if recipe.ssim_weight:
            loss = loss + recipe.ssim_weight * (1 - ssim(reconstruction, pixels))
        if self.perceptual is not None and (weight := recipe.perceptual_weight_at(views)):
            loss = loss + weight * self._perceptual_distance(
                self.perceptual, reconstruction, pixels
            )
        if self.discriminator is not None and views >= recipe.gan_from:
            self.discriminator.requires_grad_(False)  # its own step follows
            loss = loss + recipe.gan_weight * generator_loss(self.discriminator(reconstruction))
            self.discriminator.requires_grad_(True)
        return loss

    @staticmethod
    def _perceptual_distance(
        perceptual: Perceptual, reconstruction: Tensor, pixels: Tensor
    ) -> Tensor:
        """Mean distance of the images less a few first rows and columns: a trunk that looks at every fourth pixel invites a grid."""
        down, right = torch.randint(GRID, (2,)).tolist()
        return perceptual(reconstruction[:, :, down:, right:], pixels[:, :, down:, right:]).mean()

    def discriminator_loss(self, pixels: Tensor, reconstruction: Tensor) -> Tensor:
        """Scalar to minimise over the discriminator."""
        assert self.discriminator is not None
        return discriminator_loss(
            self.discriminator(pixels), self.discriminator(reconstruction.detach().float())
        )


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of two batches float [B, C, H, W] in [-1, 1]: a scalar, at most 1.

    Wang, Bovik, Sheikh, Simoncelli 2004 with uniform windows of 7 x 7 pixels inside the image and variances over n, as
    skimage.metrics.structural_similarity(gaussian_weights=False, use_sample_covariance=False, data_range=2).
    """
    # A window's mean as two matrix products: on a CPU a quarter of the time of avg_pool2d, forward and backward.
    rows, columns = (_window_means(side).to(a) for side in a.shape[2:])

    def mean(x: Tensor) -> Tensor:
        return rows @ x @ columns.T

    a, b = a.contiguous(), b.contiguous()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mean_a, mean_b = mean(a), mean(b)
    variances = mean(a * a + b * b) - mean_a**2 - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean()


def _window_means(side: int) -> Tensor:
    """The matrix float [side - 6, side] that takes a line to the means of its windows."""
    ones = torch.ones(side - SSIM_WINDOW + 1, side)
    return (ones.triu() - ones.triu(SSIM_WINDOW)) / SSIM_WINDOW
