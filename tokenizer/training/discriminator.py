"""PatchGAN discriminator and the hinge losses of a GAN."""

import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.models.blocks import Norm


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (Isola et al. 2017), 64 channels, 3 layers, GroupNorm: 2,766,529 parameters.

    float [B, 3, H, W] in [-1, 1] to a score for each patch of 70 pixels, float
    [B, 1, H/8 - 2, W/8 - 2]: the higher, the more photo-like.
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for width, stride in ((64, 2), (128, 2), (256, 1)):
            layers += [
                nn.Conv2d(width, 2 * width, 4, stride=stride, padding=1),
                Norm(2 * width),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv2d(512, 1, 4, padding=1))


def discriminator_loss(photos: Tensor, images: Tensor) -> Tensor:
    """Scalar hinge loss of the discriminator, from its scores; halved as in the paper."""
    return 0.5 * (F.relu(1 - photos).mean() + F.relu(1 + images).mean())


def generator_loss(images: Tensor) -> Tensor:
    """Hinge loss of the decoder: scores of decoded images to a scalar."""
    return -images.mean()
