"""Class-conditional GPT over image tokens, with a key/value cache.

Source: LlamaGen (Sun et al. 2024, arXiv 2406.06525).
The class is at the first position, followed by C - 1 tokens; each position predicts the next token.
RMSNorm, 1-D rotary positions, SwiGLU, no biases. Tokens are ordered coarse to fine, so generation
may stop after any of them.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from generator.output_head import OUTPUT_HEADS
from generator.token_model import TokenModel
from tokenizer.models.base import VocabSize

ROTARY_BASE = 10_000.0
# Keys of layer 0, values of layer 0, keys of layer 1 and so on, each float [B, heads, t, head]
Cache = list[Tensor]
# (queries, keys and values of the n new positions float [B, n, 3 d], cached keys and cached values
# float [B, heads, t, head]) -> (attention output float [B, n, d], keys and values to cache)
Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Cache]]
AttendWithin = Callable[[Tensor], tuple[Tensor, Cache]]  # the same with the cache already bound


# Serialised under its first name, because fingerprints hash the shape.
FfnDim = Annotated[
    int, Field(validation_alias=AliasChoices("ffn_dim", "inside"), serialization_alias="inside")
]


class GptShape(BaseModel):
    """Architecture of a GPT.

    channels: C, tokens of a whole sequence. vocab_size: ids per token. classes: number of classes,
    besides 'no class'. ffn_dim: width of the SwiGLU. prediction: output head, see
    generator.output_head. specials: unused ids after the vocabulary; the paper has three.
    position_embedding: add a learned embedding per position, because channels differ in meaning and
    rotary positions encode only distances.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
    kind: Literal["gpt"] = "gpt"
    channels: int = Field(256, ge=1)
    vocab_size: VocabSize = Field(65_536, ge=2, le=65_536)
    classes: int = Field(ge=0)
    width: int = 320
    layers: int = 4
    heads: int = 5
    ffn_dim: FfnDim = 880
    prediction: Literal["softmax", "bits"] = "bits"
    specials: int = 0
    position_embedding: bool = True

    def build(self) -> "Gpt":
        """A generator of this shape with fresh weights."""
        return Gpt(self)


def paper_shape(classes: int = 1000) -> GptShape:
    """ChannelTok's GPT-L (arXiv 2606.04461): 256 channels of 2^14 ids, on ImageNet."""
    return GptShape(
        channels=256,
        vocab_size=16_384,
        classes=classes,
        width=1024,
        layers=24,
        heads=16,
        ffn_dim=2816,
        prediction="softmax",
        specials=3,
        position_embedding=False,
    )


class RMSNorm(nn.Module):
    """Root mean square norm (Zhang, Sennrich 2019, arXiv 1910.07467).

    Written so that ONNX Runtime fuses it into one kernel instead of seven.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    """Projections of self-attention; `attend` computes the attention between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, attend: AttendWithin) -> tuple[Tensor, Cache]:
        """x: float [B, n, d]. Returns float [B, n, d] and the keys and values to cache."""
        attended, cache = attend(self.qkv(x))
        return self.out(attended), cache


class CausalAttention:
    """Attention in PyTorch operators over cached and new positions; the cache is not copied.

    rotation: cosines and sines of the n new positions, see `rotated`. mask: float [n, t + n], 0 or
    -inf.
    """

    def __init__(self, heads: int, rotation: tuple[Tensor, Tensor], mask: Tensor) -> None:
        self.heads, self.rotation, self.mask = heads, rotation, mask

    def __call__(self, qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Cache]:
        """See Attend. Returns the keys and values of the n new positions only."""
        qk, v = (
            qkv.unflatten(2, (3 * self.heads, -1))
            .transpose(1, 2)
            .split([2 * self.heads, self.heads], dim=1)
        )
        q, k = rotated(qk, self.rotation).chunk(2, dim=1)
        scores = torch.cat([q @ keys.transpose(2, 3), q @ k.transpose(2, 3)], dim=3) + self.mask
        of_earlier, of_new = scores.softmax(dim=3).split([keys.shape[2], k.shape[2]], dim=3)
        attended = of_earlier @ values + of_new @ v
        return attended.transpose(1, 2).flatten(2), [k, v]


def rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864); element i rotates with i + head/2.

    x: float [B, heads, n, head].
    """
    cosines, sines = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([second, first], dim=-1) * sines


class SwiGLU(nn.Module):
    """Gated linear unit (Shazeer 2020, arXiv 2002.05202).

    Gate and value share a matrix, because a step is bound by the number of kernel calls.
    """

    def __init__(self, width: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * ffn_dim, bias=False)
        self.down = nn.Linear(ffn_dim, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """Pre-norm attention and SwiGLU with skips."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = RMSNorm(shape.width), RMSNorm(shape.width)
        self.attention, self.mlp = Attention(shape.width), SwiGLU(shape.width, shape.ffn_dim)

    def forward(self, x: Tensor, attend: AttendWithin) -> tuple[Tensor, Cache]:
        """See Attention.forward."""
        attended, cache = self.attention(self.attention_norm(x), attend)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), cache


class Gpt(TokenModel):
    """Predicts the next token from the class and previous tokens; id -1 stands for the class."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.shape = shape
        self.prediction = OUTPUT_HEADS[shape.prediction](
            shape.vocab_size, shape.specials, shape.width
        )
        self.classes = nn.Embedding(shape.classes + 1, shape.width)  # the last row is 'no class'
        nn.init.normal_(self.classes.weight, std=0.02)
        self.positions = (
            nn.Embedding(shape.channels, shape.width) if shape.position_embedding else None
        )
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        head = shape.width // shape.heads
        half = head // 2
        # Both queries and keys are rotated by these tables. The factor head^-1/4 in each scales the
        # scores by head^-1/2.
        scale = head**-0.25
        angles = torch.arange(shape.channels)[:, None] * ROTARY_BASE ** (-torch.arange(half) / half)
        self.register_buffer(
            "cosines", scale * torch.cat([angles.cos(), angles.cos()], dim=1), persistent=False
        )
        self.register_buffer(
            "sines", scale * torch.cat([-angles.sin(), angles.sin()], dim=1), persistent=False
        )

    def hidden(
        self, tokens: Tensor, classes: Tensor, cache: Cache, before: int | Tensor
    ) -> tuple[Tensor, Cache]:
        """Final hidden states of n new positions, which follow `before` cached ones.

        tokens: int [B, n], -1 at the class's position. classes: int [B], -1 = no class. cache: only
        its first `before` positions are read; the rest is spare room. before: 0 to the cache's t.
        Returns float [B, n, d] and the keys and values of the n new positions only.
        """
        new, room = tokens.shape[1], cache[0].shape[2]
        order = torch.arange(new, device=tokens.device)
        at = order + before
        written = torch.where(torch.arange(room, device=tokens.device) < before, 0.0, -torch.inf)
        mask = torch.cat(
            [written.expand(new, room), torch.where(order <= order[:, None], 0.0, -torch.inf)],
            dim=1,
        )
        # Otherwise half-precision scores would become fp32 and not match the values.
        mask = mask.to(cache[0].dtype)
        attend = CausalAttention(self.shape.heads, (self.cosines[at], self.sines[at]), mask)
        return self.through_layers(self.embedded(tokens, classes, at), cache, attend)

    def embedded(self, tokens: Tensor, classes: Tensor, at: Tensor) -> Tensor:
        """Input embeddings float [B, n, d] of tokens int [B, n] at positions int [n] or [B, n].

        The id -1 is replaced by the class, int [B], -1 = no class.
        """
        labels = self.classes.weight[classes.long()]  # -1 is the last row: 'no class'
        x = torch.where(tokens[..., None] < 0, labels[:, None], self.prediction.embed(tokens))
        return x if self.positions is None else x + self.positions(at)

    def through_layers(self, x: Tensor, cache: Cache, attend: Attend) -> tuple[Tensor, Cache]:
        """Embeddings float [B, n, d] to final hidden states, and the keys and values to cache."""
        new_cache: Cache = []
        for layer, keys, values in zip(self.layers, cache[::2], cache[1::2], strict=True):
            x, layer_cache = layer(
                x, lambda qkv, keys=keys, values=values: attend(qkv, keys, values)
            )
            new_cache += layer_cache
        return self.norm(x), new_cache

    def empty_cache(self, batch: int, room: int = 0) -> Cache:
        """An empty cache with room for a number of positions."""
        shape = self.shape
        size = (batch, shape.heads, room, shape.width // shape.heads)
        return [self.norm.weight.new_zeros(size) for _ in range(2 * shape.layers)]

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        hidden, _ = self.hidden(
            F.pad(tokens[:, :-1], (1, 0), value=-1), classes, self.empty_cache(len(tokens)), 0
        )
        return self.prediction.nll(hidden, tokens)

    def inner_weights(self) -> list[Tensor]:
        return [
            module.weight
            for layer in self.layers
            for module in layer.modules()
            if isinstance(module, nn.Linear)
        ]
