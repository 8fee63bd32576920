"""Perceptual training loss (LPIPS-like): distance between VGG16 or AlexNet features.

Weights and heads come from the `stlpips-pytorch` wheel (Ghildyal and Liu 2022, arXiv 2207.13686).
Its networks blur before pooling; ours pool as the original networks do, because blurred features
overlook the grid that decoders tend to leave. So this is neither LPIPS nor ST-LPIPS. It is never an
evaluation metric: see tokenizer.evaluation.efficientnet_distance.
"""

from importlib.resources import files
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Trunk = Literal["vgg", "alex"]
# Features are taken at the end of each block. Numbers: index of a convolution in the wheel's file.
# "M": pooling.
_BLOCKS: dict[Trunk, tuple[tuple[int | str, ...], ...]] = {
    "vgg": ((0, 2), ("M", 6, 8), ("M", 12, 14, 16), ("M", 20, 22, 24), ("M", 28, 30, 32)),
    "alex": ((0,), ("M", 5), ("M", 9), (11,), (13,)),
}


class Perceptual(nn.Module):
    """Frozen feature distance. Loading it reads 10 MB (alex) or 59 MB (vgg)."""

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        path = files("stlpips_pytorch") / f"weights/vST0.0/{trunk}_shift_tolerant.pth"
        with path.open("rb") as file:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        self.blocks = nn.ModuleList(
            _block(trunk, number, layers, weights)
            for number, layers in enumerate(_BLOCKS[trunk], start=1)
        )
        for number in range(len(self.blocks)):
            self.register_buffer(f"head{number}", weights[f"lin{number}.model.1.weight"])
        # ImageNet's mean and deviation for pixels in [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, images: Tensor, photos: Tensor) -> Tensor:
        """Distance of each pair: two float [B, 3, H, W] in [-1, 1], H, W >= 64, to float [B]."""
        total = images.new_zeros(len(images))
        a, b = ((pixels - self.shift) / self.scale for pixels in (images, photos))
        for number, block in enumerate(self.blocks):
            a, b = block(a), block(b)
            difference = (
                F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)
            ).square()
            total = total + F.conv2d(difference, getattr(self, f"head{number}")).mean(dim=(1, 2, 3))
        return total


def _block(
    trunk: Trunk, number: int, layers: tuple[int | str, ...], weights: dict[str, Tensor]
) -> nn.Sequential:
    block = nn.Sequential()
    for layer in layers:
        if layer == "M":
            block.append(nn.MaxPool2d(2, 2) if trunk == "vgg" else nn.MaxPool2d(3, 2))
            continue
        weight, bias = (weights[f"net.slice{number}.{layer}.{name}"] for name in ("weight", "bias"))
        side = weight.shape[2]
        first = trunk == "alex" and number == 1
        convolution = nn.Conv2d(
            weight.shape[1],
            weight.shape[0],
            side,
            stride=4 if first else 1,
            padding=2 if first else side // 2,
        )
        convolution.load_state_dict({"weight": weight, "bias": bias})
        block.extend([convolution, nn.ReLU()])
    return block
