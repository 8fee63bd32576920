"""Finite scalar quantisation (FSQ): six numbers, each rounded to a few levels, to a token and back.

Source: Mentzer et al. 2023, arXiv 2309.15505.
"""

import math

import torch
from torch import Tensor

LEVELS = (8, 8, 8, 5, 5, 5)
VOCAB_SIZE = math.prod(LEVELS)  # 64,000: an id fits 16 bits
_EPS = 1e-3  # keeps bounded numbers away from the edge, where rounding would leave the levels
# Place values: the first number is the least significant digit.
_BASIS = [math.prod(LEVELS[:place]) for place in range(len(LEVELS))]


def quantise(z: Tensor) -> Tensor:
    """Latents float [..., 6], unbounded, to codes float [..., 6] in [-1, 1].

    The gradient is that of the bounded numbers (straight-through).
    """
    bounded = _bounded(z)
    return (bounded + (bounded.round() - bounded).detach()) / _half_widths(z)


def tokens_from_latents(z: Tensor) -> Tensor:
    """Latents float [..., 6], unbounded, to token ids int32 [...] in [0, 63999]."""
    digits = _bounded(z).round() + _half_widths(z)
    return (digits.to(torch.int32) * torch.tensor(_BASIS, dtype=torch.int32, device=z.device)).sum(
        dim=-1, dtype=torch.int32
    )


def digits_from_tokens(tokens: Tensor) -> Tensor:
    """Token ids int [...] in [0, 63999] to the level of each number, int64 [..., 6]."""
    basis, levels = (
        torch.tensor(_BASIS, device=tokens.device),
        torch.tensor(LEVELS, device=tokens.device),
    )
    return tokens.unsqueeze(-1) // basis % levels


def code_table() -> Tensor:
    """The code of each id: float32 [64000, 6] in [-1, 1]."""
    digits = digits_from_tokens(torch.arange(VOCAB_SIZE, device="cpu")).float()
    half = _half_widths(digits)
    return (digits - half) / half


def _half_widths(z: Tensor) -> Tensor:
    return torch.tensor([levels // 2 for levels in LEVELS], dtype=torch.float32, device=z.device)


def _bounded(z: Tensor) -> Tensor:
    """Squash each number into the range of its levels.

    With an even number of levels the range is half a step lower.
    """
    half = [(levels - 1) * (1 + _EPS) / 2 for levels in LEVELS]
    offset = [0.5 * (levels % 2 == 0) for levels in LEVELS]
    shift = [math.atanh(o / h) for o, h in zip(offset, half, strict=True)]
    constants = torch.tensor([shift, half, offset], dtype=torch.float32, device=z.device)
    return torch.tanh(z.float() + constants[0]) * constants[1] - constants[2]
