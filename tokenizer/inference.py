"""Run a PyTorch tokenizer over images in batches: uint8 images -> token ids -> uint8 images.

Training, evaluation, generators and export all encode and decode through these functions.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenizer.models.base import Tokenizer

BATCH = 32


def budgets(channels: int) -> tuple[int, ...]:
    """The values of k that reports and logs show for a tokenizer of `channels` tokens."""
    return tuple(k for k in (8, 16, 32, 64, 128, 256, 512) if k <= channels)


@torch.inference_mode()
def encode(model: Tokenizer, images: NDArray[np.uint8]) -> Tensor:
    """Images uint8 [N, S, S, 3] to token ids int32 [N, C], on the CPU."""
    batches = torch.from_numpy(images).split(BATCH)
    return torch.cat([model.encode(to_unit(batch).to(_device(model))).cpu() for batch in batches])


@torch.inference_mode()
def decode(model: Tokenizer, tokens: Tensor, budget: int) -> NDArray[np.uint8]:
    """The first `budget` of token ids int32 [N, C] to images uint8 [N, S, S, 3]."""
    prefixes = tokens[:, :budget].split(BATCH)
    return np.concatenate(
        [
            to_uint8(model.decode_prefix(prefix.to(_device(model)))).cpu().numpy()
            for prefix in prefixes
        ]
    )


def _device(model: Tokenizer) -> torch.device:
    return next(model.parameters()).device


def to_unit(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1], stored channels last."""
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
    return pixels / 127.5 - 1


def to_uint8(pixels: Tensor) -> Tensor:
    """float [B, 3, H, W] in about [-1, 1] to uint8 [B, H, W, 3], rounded to nearest."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
