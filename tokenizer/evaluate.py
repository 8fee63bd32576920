"""How good a tokenizer is: fidelity by budget, and whether its bits carry anything."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenizer.channeltok import ChannelTok
from tokenizer.data import to_unit
from tokenizer.quantize import ABSENT

BATCH = 32
BUDGETS = (8, 32, 64, 128, 256)  # the k at which a tokenizer is looked at


@torch.inference_mode()
def encode(model: ChannelTok, photos: NDArray[np.uint8]) -> Tensor:
    """uint8 [N, S, S, 3] to token ids int32 [N, C]."""
    pixels = torch.from_numpy(photos)
    return torch.cat([model.encode(to_unit(part)) for part in pixels.split(BATCH)])


@torch.inference_mode()
def decode(model: ChannelTok, tokens: Tensor, budget: int) -> NDArray[np.uint8]:
    """The first `budget` of token ids int32 [N, C] to pictures uint8 [N, S, S, 3]."""
    kept = tokens.clone()
    kept[:, budget:] = ABSENT
    return np.concatenate([to_uint8(model.decode(part)).numpy() for part in kept.split(BATCH)])


def to_uint8(pixels: Tensor) -> Tensor:
    """float [B, 3, H, W] in about [-1, 1] to uint8 [B, H, W, 3], rounded to nearest."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def psnr(photos: NDArray[np.uint8], pictures: NDArray[np.uint8]) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB: 10 log10(255^2 / mean squared error). Both uint8 [N, H, W, 3]."""
    error = np.square(photos.astype(np.float32) - pictures.astype(np.float32)).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-6))))


def live_bits(tokens: Tensor) -> float:
    """Share of the C x 16 bits that are 1 in between 5 % and 95 % of pictures. tokens: int32 [N, C]."""
    ones = torch.stack([(tokens >> bit) & 1 for bit in range(16)], dim=2).float().mean(0)
    return float(((ones > 0.05) & (ones < 0.95)).float().mean())
