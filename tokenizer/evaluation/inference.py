"""Photos to tokens to images with a model in memory: what training, judging and export all look at."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenizer.models.base import Tokenizer
from tokenizer.training.data import to_unit

BATCH = 32


def budgets(channels: int) -> tuple[int, ...]:
    """The k at which a tokenizer of so many channels is looked at."""
    return tuple(k for k in (8, 16, 32, 64, 128, 256, 512) if k <= channels)


@torch.inference_mode()
def encode(model: Tokenizer, photos: NDArray[np.uint8]) -> Tensor:
    """uint8 [N, S, S, 3] to token ids int32 [N, C]."""
    pixels = torch.from_numpy(photos)
    return torch.cat(
        [model.encode(to_unit(part).to(_device(model))).cpu() for part in pixels.split(BATCH)]
    )


@torch.inference_mode()
def decode(model: Tokenizer, tokens: Tensor, budget: int) -> NDArray[np.uint8]:
    """The first `budget` of token ids int32 [N, C] to images uint8 [N, S, S, 3]."""
    kept = tokens[:, :budget].split(BATCH)
    return np.concatenate(
        [to_uint8(model.decode_prefix(part.to(_device(model)))).cpu().numpy() for part in kept]
    )


def _device(model: Tokenizer) -> torch.device:
    return next(model.parameters()).device


def to_uint8(pixels: Tensor) -> Tensor:
    """float [B, 3, H, W] in about [-1, 1] to uint8 [B, H, W, 3], rounded to nearest."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
