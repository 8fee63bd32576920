"""A GPT over channel tokens, conditioned on a class (LlamaGen: Sun et al. 2024, arXiv 2406.06525).

The first position of a sequence is the class, so a picture's C tokens are C - 1 positions more and each position foretells the next token.
Root mean square norms, rotary positions in one dimension, gated linear units, no biases. Any length is a whole sequence: the
tokens are ordered coarse to fine, and generation may stop after each.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from generator.foreteller import Foreteller
from generator.prediction import PREDICTIONS

ROTARY_BASE = 10_000.0


class GptShape(BaseModel):
    """What a generator is built from.

    channels, codes: C tokens of a whole sequence at most, and how many ids each may have. classes: how many there are beside 'no class'.
    inside: width of the gated units. prediction: how the next token is told, see generator.prediction. specials: ids after the codes that
    no token has; the paper's vocabulary has three. position_embedding: whether each position also has a vector of its own, for channels
    differ in what they mean, and rotary positions tell only distances.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["gpt"] = "gpt"
    channels: int = Field(256, ge=1)
    codes: int = Field(65_536, ge=2, le=65_536)
    classes: int = Field(ge=0)
    width: int = 320
    layers: int = 4
    heads: int = 5
    inside: int = 880
    prediction: Literal["softmax", "bits"] = "bits"
    specials: int = 0
    position_embedding: bool = True

    def build(self) -> "Gpt":
        """A generator of this shape with fresh weights."""
        return Gpt(self)


def paper_shape(classes: int = 1000) -> GptShape:
    """ChannelTok's GPT-L (Paul, Bansal, Goldstein 2026, arXiv 2606.04461): for a tokenizer of 256 channels and 2^14 codes, on ImageNet."""
    return GptShape(
        channels=256,
        codes=16_384,
        classes=classes,
        width=1024,
        layers=24,
        heads=16,
        inside=2816,
        prediction="softmax",
        specials=3,
        position_embedding=False,
    )


class RMSNorm(nn.Module):
    """Root mean square norm (Zhang, Sennrich 2019, arXiv 1910.07467), spelt as ONNX Runtime knows it: one kernel in the place of seven."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    """Causal self-attention whose keys and values of earlier positions are given, not computed again, and not copied either."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """x: float [B, n, d]. rotation: of the n positions. mask: float [n, t + n], 0 or -inf. keys, values: float [B, heads, t, head].

        Returns float [B, n, d] and the n new keys and, after them, values, float [2 B, heads, n, head].
        """
        qk, v = self.qkv(x).unflatten(2, (3 * self.heads, -1)).transpose(1, 2).split([2 * self.heads, self.heads], dim=1)
        q, k = rotated(qk, rotation).chunk(2, dim=1)
        scores = torch.cat([q @ keys.transpose(2, 3), q @ k.transpose(2, 3)], dim=3) * k.shape[3] ** -0.5 + mask
        of_earlier, of_new = scores.softmax(dim=3).split([keys.shape[2], k.shape[2]], dim=3)
        attended = of_earlier @ values + of_new @ v
        return self.out(attended.transpose(1, 2).flatten(2)), torch.cat([k, v])


def rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): number i turns with number i + head/2. x: float [B, heads, n, head]."""
    cosines, sines = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([second, first], dim=-1) * sines


class SwiGLU(nn.Module):
    """A gated linear unit (Shazeer 2020, arXiv 2002.05202); gate and value are one matrix, for a step is bound by the number of calls."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inside, bias=False)
        self.down = nn.Linear(inside, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """Attention and SwiGLU, each behind a norm and beside a skip."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = RMSNorm(shape.width), RMSNorm(shape.width)
        self.attention, self.mlp = Attention(shape.width, shape.heads), SwiGLU(shape.width, shape.inside)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As Attention."""
        attended, new = self.attention(self.attention_norm(x), rotation, mask, keys, values)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), new


class Gpt(Foreteller):
    """The class and the first tokens of a picture to the next one. A token id of -1 stands at the first position, where the class is."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.shape = shape
        self.prediction = PREDICTIONS[shape.prediction](shape.codes, shape.specials, shape.width)
        self.classes = nn.Embedding(shape.classes + 1, shape.width)  # the last row is 'no class'
        nn.init.normal_(self.classes.weight, std=0.02)
        self.positions = nn.Embedding(shape.channels, shape.width) if shape.position_embedding else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        half = shape.width // shape.heads // 2
        angles = torch.arange(shape.channels)[:, None] * ROTARY_BASE ** (-torch.arange(half) / half)
        self.register_buffer("cosines", torch.cat([angles.cos(), angles.cos()], dim=1), persistent=False)
        self.register_buffer("sines", torch.cat([-angles.sin(), angles.sin()], dim=1), persistent=False)

    def hidden(self, tokens: Tensor, classes: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """The n newest positions after the t in the cache, each as what `prediction` tells the next token from.

        tokens: int [B, n], the class's position as -1. classes: int [B], -1 = no class. cache: float [layers, 2, B, heads, t, head].
        Returns float [B, n, d] and the cache of t + n positions.
        """
        before, new = cache.shape[4], tokens.shape[1]
        # From the last row when negative: that is 'no class'.
        labels = torch.where(classes < 0, self.shape.classes, classes)
        x = torch.where(tokens[..., None] < 0, self.classes(labels)[:, None], self.prediction.embed(tokens.clamp_min(0)))
        at = torch.arange(new, device=tokens.device) + before
        if self.positions is not None:
            x = x + self.positions(at)
        rotation = self.cosines[at], self.sines[at]
        mask = torch.where(torch.arange(before + new, device=tokens.device) <= at[:, None], 0.0, -torch.inf)
        remembered, fresh = cache.flatten(0, 1).unbind(), []
        for layer, keys, values in zip(self.layers, remembered[::2], remembered[1::2], strict=True):
            x, keys_and_values = layer(x, rotation, mask, keys, values)
            fresh.append(keys_and_values)
        return self.norm(x), torch.cat([cache, torch.cat(fresh).reshape(*cache.shape[:4], new, -1).to(cache.dtype)], dim=4)

    def empty_cache(self, batch: int) -> Tensor:
        """The cache before the first position: float [layers, 2, B, heads, 0, head]."""
        shape = self.shape
        return self.norm.weight.new_zeros(shape.layers, 2, batch, shape.heads, 0, shape.width // shape.heads)

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        hidden, _ = self.hidden(F.pad(tokens[:, :-1], (1, 0), value=-1), classes, self.empty_cache(len(tokens)))
        return self.prediction.nll(hidden, tokens)

    def inner_weights(self) -> list[Tensor]:
        return [module.weight for layer in self.layers for module in layer.modules() if isinstance(module, nn.Linear)]
