"""Transformer layers of FlexTok, with and without time modulation: float [B, tokens, d]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 64


def norm(x: Tensor) -> Tensor:
    """Layer norm over the last dimension, without weights, in float32 under autocast too."""
    return F.layer_norm(x.float(), x.shape[-1:])


class Attention(nn.Module):
    """Full self-attention with heads of 64 and QK-norm (Dehghani et al. 2023, arXiv 2302.05442)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        with torch.no_grad():
            # Start by attending to similar tokens (Trockman, Kolter 2023, arXiv 2305.09828).
            self.k.weight.copy_(self.q.weight)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """bias: float, added to the scores; broadcast to [B, heads, tokens, tokens]."""
        q, k, v = (
            project(x).unflatten(2, (-1, HEAD)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(norm(q).to(v.dtype), norm(k).to(v.dtype), v, bias)
        return self.out(attended.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Gated linear unit (Shazeer 2020, arXiv 2002.05202), 8/3 d wide: an MLP's 8 d^2 weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        ffn_dim = 4 * width * 2 // 3
        self.gate, self.up = (nn.Linear(width, ffn_dim, bias=False) for _ in range(2))
        self.down = nn.Linear(ffn_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """Pre-norm attention and SwiGLU with skips: 12 d^2 weights, no biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width), SwiGLU(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(norm(x))
        return x + self.mlp(norm(x))


class TimedLayer(nn.Module):
    """A Layer with adaLN-zero time modulation (DiT: Peebles, Xie 2022, arXiv 2212.09748).

    24 d^2 weights. The first `patches` tokens and the others have separate shifts, scales and
    gates. The modulation starts at zero, so the layer starts as an identity.
    """

    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        self.patches = patches
        self.attention, self.mlp = Attention(width), SwiGLU(width)
        self.modulation = nn.Linear(width, 12 * width, bias=False)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, x: Tensor, time: Tensor, bias: Tensor | None = None) -> Tensor:
        """time: float [B or 1, d]. bias: see Attention."""
        # Of attention, then of the MLP; for patches and others: float [B or 1, 2, 1, d] each.
        shift, scale, gate, shift2, scale2, gate2 = (
            self.modulation(F.silu(time)).float().unflatten(1, (6, 2, 1, -1)).unbind(1)
        )
        x = x + self._affine(self.attention(self._affine(norm(x), 1 + scale, shift), bias), gate)
        return x + self._affine(self.mlp(self._affine(norm(x), 1 + scale2, shift2)), gate2)

    def _affine(self, x: Tensor, factor: Tensor, summand: Tensor | None = None) -> Tensor:
        """x * factor + summand, with one of each for patches and one for the others."""
        parts = x.tensor_split([self.patches], dim=1)
        products = [part * factor[:, side] for side, part in enumerate(parts)]
        if summand is not None:
            products = [product + summand[:, side] for side, product in enumerate(products)]
        return torch.cat(products, dim=1)


class TimeEmbedding(nn.Module):
    """Times float [B] in [0, 1] to float [B, d]: sines and cosines of 64 frequencies, an MLP."""

    FREQUENCIES = 64

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * self.FREQUENCIES, width)
        self.second = nn.Linear(width, width)

    def forward(self, times: Tensor) -> Tensor:
        steps = torch.arange(self.FREQUENCIES, device=times.device) / self.FREQUENCIES
        angles = 1000 * times[:, None] * torch.exp(-math.log(10_000) * steps)
        return self.second(F.silu(self.first(torch.cat([angles.sin(), angles.cos()], dim=1))))
