"""Binary spherical quantisation (BSQ): a latent channel of 4x4 numbers to a 16-bit token and back.

Source: Zhao, Xiong, Kraehenbuehl 2024 (BSQ-ViT), applied to channels as in ChannelTok (arXiv
2606.04461).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BITS = 16
CODE = 1 / math.sqrt(BITS)  # a code is +-0.25 in each of its 16 places, on the unit sphere
ABSENT = -1  # token id of a dropped channel; its code is 0, unlike that of any token
RARE = 0.05  # a bit is dead when it is 1, or 0, in a smaller share of images
# Most significant bit first, p = 4 * row + column
_WEIGHTS = [2 ** (BITS - 1 - p) for p in range(BITS)]


class _Constant:
    """A constant tensor, copied to each device once: copies synchronise and break CUDA graphs."""

    def __init__(self, value: Tensor) -> None:
        self.copies = {value.device: value}

    def on(self, device: torch.device) -> Tensor:
        if device not in self.copies:
            (value, *_) = self.copies.values()
            self.copies[device] = value.to(device)
        return self.copies[device]


_BIT_WEIGHTS = _Constant(torch.tensor(_WEIGHTS, dtype=torch.int32))


@dataclass(frozen=True)
class Quantised:
    """Result of quantisation, both float [B, C, 4, 4].

    codes: +-0.25, with the straight-through gradient of `unit`.
    unit: latents with each channel scaled to length 1, the input of the entropy terms.
    """

    codes: Tensor
    unit: Tensor


def quantise(latents: Tensor) -> Quantised:
    """Scale each channel of latents float [B, C, 4, 4] to length 1; codes are signs times 0.25."""
    unit = F.normalize(latents.flatten(2), dim=2).reshape(latents.shape)
    hard = torch.where(unit > 0, CODE, -CODE).to(unit.dtype)
    return Quantised(codes=unit + (hard - unit).detach(), unit=unit)


def tokens_from_latents(latents: Tensor) -> Tensor:
    """Latents float [B, C, 4, 4] to token ids int32 [B, C] in [0, 65535].

    Needs no normalisation: signs do not depend on a channel's length.
    """
    bits = latents.flatten(2) > 0
    return (bits.to(torch.int32) * _BIT_WEIGHTS.on(latents.device)).sum(dim=2, dtype=torch.int32)


def _code_table() -> Tensor:
    ids, weights = torch.arange(2**BITS).unsqueeze(1), torch.tensor(_WEIGHTS)
    codes = (ids // weights % 2).float() * (2 * CODE) - CODE
    return torch.cat([codes, torch.zeros(1, BITS)])


_CODES = _Constant(_code_table())  # float32 [65537, 16], a row per id; the last row is ABSENT


def codes_from_tokens(tokens: Tensor) -> Tensor:
    """Token ids int32 [B, C] to codes float32 [B, C, 4, 4]: +-0.25, or 0 where an id is negative.

    Looked up in a table: arithmetic on ids needs 16 exact bits, and a bfloat16 engine has 8.
    """
    rows = torch.where(tokens < 0, 2**BITS, tokens)
    return F.embedding(rows, _CODES.on(tokens.device)).unflatten(2, (4, 4))


@dataclass(frozen=True)
class Entropy:
    """Entropies in nats per token, scalars.

    per_sample: mean entropy of single tokens, exact; small when every number is far from 0.
    batch: entropy of bits over the batch, at most 16 ln 2; large when all bits are used.
    Approximated by bit marginals, as in BSQ-ViT.
    """

    per_sample: Tensor
    batch: Tensor


def factorised_entropy(unit: Tensor, active: Tensor, inverse_temperature: float = 100.0) -> Entropy:
    """Entropy of the soft assignment to all 2**L codes, without enumerating them.

    The softmax of -tau * |x - code|^2 over the corners of a cube factorises into bits:
    P(bit = 1) = sigmoid(4 tau x / sqrt(L)).
    unit: [B, C, 4, 4] (or any trailing shape of L numbers), channels of length 1.
    active: bool [B, C], which tokens to include. inverse_temperature: tau.
    """
    x = unit.flatten(2)[active]  # [tokens, L]
    logits = x.float() * (4 * inverse_temperature / math.sqrt(x.shape[1]))
    p = torch.sigmoid(logits)
    per_sample = F.binary_cross_entropy_with_logits(logits, p, reduction="none").sum(1).mean()
    marginal = p.mean(0).clamp(1e-6, 1 - 1e-6)
    batch = F.binary_cross_entropy(marginal, marginal, reduction="sum")
    return Entropy(per_sample=per_sample, batch=batch)


def bit_frequencies(tokens: Tensor) -> NDArray[np.float64]:
    """Share of images in which each bit is 1, most significant first: int32 [N, C] to [C, 16]."""
    return (
        torch.stack([(tokens >> (BITS - 1 - p)) & 1 for p in range(BITS)], dim=2)
        .double()
        .mean(0)
        .numpy()
    )


def live_bits(tokens: Tensor) -> float:
    """Share of the C x 16 bits that are 1 in 5 % to 95 % of images. tokens: int32 [N, C]."""
    share = bit_frequencies(tokens)
    return float(((share > RARE) & (share < 1 - RARE)).mean())
