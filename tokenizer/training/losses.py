"""Training losses of a tokenizer: L1, SSIM, perceptual distance and GAN, weighted by the recipe."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.training.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from tokenizer.training.perceptual import Perceptual
from tokenizer.training.recipe import TokenizerRecipe

SSIM_WINDOW = 7  # pixels
GRID = 4  # pixels: stride of AlexNet's first convolution, and of our decoder's last layer


class TrainingLosses(nn.Module):
    """The losses of a recipe. A network whose weight is 0 is never loaded."""

    def __init__(self, recipe: TokenizerRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.entropy_weight, self.commitment_weight = (
            recipe.entropy_weight,
            recipe.commitment_weight,
        )
        self.perceptual = Perceptual(recipe.perceptual_trunk) if recipe.perceptual_weight else None
        self.discriminator = PatchDiscriminator() if recipe.gan_weight else None

    def image_loss(self, pixels: Tensor, reconstruction: Tensor, samples_seen: int) -> Tensor:
        """Scalar loss of a reconstruction, whatever model made it.

        pixels, reconstruction: float [B, 3, S, S] in about [-1, 1]. samples_seen: switches on the
        perceptual and the GAN loss.
        """
        recipe = self.recipe
        reconstruction = reconstruction.float()
        loss = recipe.l1_weight * F.l1_loss(reconstruction, pixels)
        if recipe.ssim_weight:
            loss = loss + recipe.ssim_weight * (1 - ssim(reconstruction, pixels))
        if self.perceptual is not None and (weight := recipe.perceptual_weight_at(samples_seen)):
            loss = loss + weight * _perceptual_distance(self.perceptual, reconstruction, pixels)
        if self.discriminator is not None and samples_seen >= recipe.gan_from:
            self.discriminator.requires_grad_(False)  # it trains in its own step
            loss = loss + recipe.gan_weight * generator_loss(self.discriminator(reconstruction))
            self.discriminator.requires_grad_(True)
        return loss

    def discriminator_loss(self, pixels: Tensor, reconstruction: Tensor) -> Tensor:
        """Scalar to minimise over the discriminator. Shapes as in `image_loss`."""
        assert self.discriminator is not None
        return discriminator_loss(
            self.discriminator(pixels), self.discriminator(reconstruction.detach().float())
        )


def _perceptual_distance(perceptual: Perceptual, reconstruction: Tensor, pixels: Tensor) -> Tensor:
    """Mean distance after cropping 0 to 3 rows and columns at random.

    At a fixed offset, a trunk with stride 4 would invite the decoder to draw a grid.
    """
    down, right = torch.randint(GRID, (2,)).tolist()
    return perceptual(reconstruction[:, :, down:, right:], pixels[:, :, down:, right:]).mean()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of two batches float [B, C, H, W] in [-1, 1]: a scalar, at most 1.

    Wang, Bovik, Sheikh, Simoncelli 2004 with uniform windows of 7 x 7 pixels inside the image and
    variances over n, as skimage.metrics.structural_similarity(gaussian_weights=False,
    use_sample_covariance=False, data_range=2).
    """
    # Window means as two matrix products take a quarter of the CPU time of avg_pool2d.
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
    """Matrix float [side - 6, side] that maps a line of pixels to its window means."""
    ones = torch.ones(side - SSIM_WINDOW + 1, side)
    return (ones.triu() - ones.triu(SSIM_WINDOW)) / SSIM_WINDOW
