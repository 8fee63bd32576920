"""A GPT over channel tokens, conditioned on a class (LlamaGen: Sun et al. 2024, arXiv 2406.06525).

The first position of a sequence is the class, so an image's C tokens are C - 1 positions more and each position foretells the next token.
Root mean square norms, rotary positions in one dimension, gated linear units, no biases. Any length is a whole sequence: the
tokens are ordered coarse to fine, and generation may stop after each.
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
Cache = list[
    Tensor
]  # keys of layer 0, values of layer 0, keys of layer 1 and so on, each float [B, heads, t, head]
# Queries, keys and values of the n newest positions, float [B, n, 3 d], and keys and values of earlier ones, float [B, heads, t, head]
# -> what the newest attend to, float [B, n, d], and keys and values to remember.
Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Cache]]
AttendWithin = Callable[
    [Tensor], tuple[Tensor, Cache]
]  # the same where those of earlier ones are given already


# Serialised under its first name, because fingerprints hash the shape.
FfnDim = Annotated[
    int,
    Field(validation_alias=AliasChoices("ffn_dim", "inside"), serialization_alias="inside"),
]


class GptShape(BaseModel):
    """What a generator is built from.

    channels, codes: C tokens of a whole sequence at most, and how many ids each may have. classes: how many there are beside 'no class'.
    ffn_dim: width of the gated units. prediction: how the next token is told, see generator.output_head. specials: ids after the codes that
    no token has; the paper's vocabulary has three. position_embedding: whether each position also has a vector of its own, for channels
    differ in what they mean, and rotary positions tell only distances.
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
    """ChannelTok's GPT-L (Paul, Bansal, Goldstein 2026, arXiv 2606.04461): for a tokenizer of 256 channels and 2^14 codes, on ImageNet."""
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
    """Root mean square norm (Zhang, Sennrich 2019, arXiv 1910.07467), spelt as ONNX Runtime knows it: one kernel in the place of seven."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    """Self-attention: the two matrices, and between them whatever `attend` makes of the cache."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, attend: AttendWithin) -> tuple[Tensor, Cache]:
        """x: float [B, n, d]. Returns float [B, n, d] and the cache that `attend` gives."""
        attended, cache = attend(self.qkv(x))
        return self.out(attended), cache


class CausalAttention:
    """In PyTorch's own operators. Keys and values of earlier positions are not computed again, and not copied either.

    heads: how many. rotation: of the n newest positions, see `rotated`. mask: float [n, t + n], 0 or -inf.
    """

    def __init__(self, heads: int, rotation: tuple[Tensor, Tensor], mask: Tensor) -> None:
        self.heads, self.rotation, self.mask = heads, rotation, mask

    def __call__(self, qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Cache]:
        """As Attend; the cache that is returned is that of the n newest positions."""
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
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): number i turns with number i + head/2. x: float [B, heads, n, head]."""
    cosines, sines = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([second, first], dim=-1) * sines


class SwiGLU(nn.Module):
    """A gated linear unit (Shazeer 2020, arXiv 2002.05202); gate and value are one matrix, for a step is bound by the number of calls."""

    def __init__(self, width: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * ffn_dim, bias=False)
        self.down = nn.Linear(ffn_dim, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """Attention and SwiGLU, each behind a norm and beside a skip."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = RMSNorm(shape.width), RMSNorm(shape.width)
        self.attention, self.mlp = Attention(shape.width), SwiGLU(shape.width, shape.ffn_dim)

    def forward(self, x: Tensor, attend: AttendWithin) -> tuple[Tensor, Cache]:
        """As Attention."""
        attended, cache = self.attention(self.attention_norm(x), attend)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), cache


class Gpt(TokenModel):
    """The class and the first tokens of an image to the next one. A token id of -1 stands at the first position, where the class is."""

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
        # Queries and keys are both turned by these tables: with the fourth root of 1 / head in them, scores are divided by its square root.
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
        """The n newest positions after the `before` in the cache, each as what `prediction` tells the next token from.

        tokens: int [B, n], the class's position as -1. classes: int [B], -1 = no class. cache: its first `before` positions count, those
        behind them are room that whoever holds it may have left to write new ones into. before: 0 to the cache's t.
        Returns float [B, n, d] and the cache of the n new positions alone.
        """
        new, room = tokens.shape[1], cache[0].shape[2]
        order = torch.arange(new, device=tokens.device)
        at = order + before
        written = torch.where(torch.arange(room, device=tokens.device) < before, 0.0, -torch.inf)
        mask = torch.cat(
            [written.expand(new, room), torch.where(order <= order[:, None], 0.0, -torch.inf)],
            dim=1,
        )
        mask = mask.to(
            cache[0].dtype
        )  # or scores of lower precision would become fp32, and no longer match the values
        attend = CausalAttention(self.shape.heads, (self.cosines[at], self.sines[at]), mask)
        return self.through_layers(self.embedded(tokens, classes, at), cache, attend)

    def embedded(self, tokens: Tensor, classes: Tensor, at: Tensor) -> Tensor:
        """tokens: int [B, n], the class's position as -1. classes: int [B], -1 = no class. at: int [n], the positions. Returns float
        [B, n, d]."""
        labels = self.classes.weight[classes.long()]  # -1 is the last row: 'no class'
        x = torch.where(tokens[..., None] < 0, labels[:, None], self.prediction.embed(tokens))
        return x if self.positions is None else x + self.positions(at)

    def through_layers(self, x: Tensor, cache: Cache, attend: Attend) -> tuple[Tensor, Cache]:
        """x: float [B, n, d]. Returns float [B, n, d] and what `attend` would remember of each layer."""
        remembered: Cache = []
        for layer, keys, values in zip(self.layers, cache[::2], cache[1::2], strict=True):
            x, of_layer = layer(x, lambda qkv, keys=keys, values=values: attend(qkv, keys, values))
            remembered += of_layer
        return self.norm(x), remembered

    def empty_cache(self, batch: int, room: int = 0) -> Cache:
        """The cache before the first position, with room for so many."""
        shape = self.shape
        one = (batch, shape.heads, room, shape.width // shape.heads)
        return [self.norm.weight.new_zeros(one) for _ in range(2 * shape.layers)]

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
