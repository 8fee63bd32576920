"""How the next token is told from a position's vector. docs/decisions/0029 has what each way costs in bits per token.

Every way samples by the same rule: of the `top_k` most likely values the one whose logit plus temperature times Gumbel noise is the
largest. That draws from the softmax of logits / temperature (Gumbel-max: Maddison, Tarlow, Minka 2014, arXiv 1411.0030), and at temperature
0 it takes the most likely. The noise comes from outside, so that one seed gives the same tokens on every engine.
"""

from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BYTE = 256  # values of it
UNITS = 24  # of the small network of each bit


class OutputHead(nn.Module, ABC):
    """draws, values: of each token, how many choices it is made of and of how many values; noise is float [B, draws, values]."""

    draws: int
    values: int

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids int [B, n] to float [B, n, d]; where one is negative that means nothing."""

    @abstractmethod
    def nll(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """-ln p of each token given its position's vector: float [B, n]. hidden: float [B, n, d]. tokens: int [B, n]."""

    @abstractmethod
    def sample(
        self, hidden: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Token ids int32 [B], and the logits float [B, draws, values] that they were drawn from.

        hidden: float [B, d]. temperature: float [1], 0 = the most likely. top_k: int32 [1], 0 = all. noise: float [B, draws, values],
        Gumbel, -ln(-ln u).
        """


class Softmax(OutputHead):
    """One choice of all ids."""

    draws = 1

    def __init__(self, vocab_size: int, specials: int, width: int) -> None:
        super().__init__()
        self.vocab_size = self.values = vocab_size
        self.embedding = nn.Embedding(vocab_size + specials, width)
        self.head = nn.Linear(width, vocab_size + specials, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.head.weight)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens.clamp_min(0))

    def nll(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(
            self.head(hidden).float().transpose(1, 2), tokens.long(), reduction="none"
        )

    def sample(
        self, hidden: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self.head(hidden)[:, : self.vocab_size]
        return choose(logits, top_k, (temperature * noise)[:, 0]), logits[:, None]


class Bits(OutputHead):
    """The 16 bits of an id one after the other, each given those before it: a small network for each bit sees the position's vector and the
    earlier bits as +-1. For codes that are corners of a cube (tokenizer.models.bsq), where ids that share bits are alike.

    Nothing is drawn bit by bit: a byte has 255 places where a bit is told, all of them are computed at once, and so a token is two choices
    of 256 values, the high byte and then the low one.
    """

    draws, values = 2, BYTE
    signs: Tensor
    level: Tensor
    before: Tensor
    paths: Tensor

    def __init__(self, vocab_size: int, specials: int, width: int) -> None:
        super().__init__()
        if vocab_size != BYTE**2 or specials:
            raise ValueError(
                f"16 bits tell {BYTE**2:,} codes and no special ids, not {vocab_size:,} and {specials}"
            )
        self.high_embedding, self.low_embedding = (
            nn.Embedding(BYTE, width),
            nn.Embedding(BYTE, width),
        )
        for embedding in (self.high_embedding, self.low_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        self.linear = nn.Linear(width, 16, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.units = nn.Linear(width, 16 * UNITS, bias=False)
        nn.init.normal_(self.units.weight, std=0.05)
        self.earlier = nn.Parameter(
            0.1 * torch.randn(16, 16, UNITS)
        )  # [bit, earlier bit, unit]; those that are not earlier have no effect
        self.out = nn.Parameter(torch.zeros(16, UNITS))
        for name, constant in zip(("signs", "level", "before", "paths"), _tree(), strict=True):
            self.register_buffer(name, constant, persistent=False)

    def embed(self, tokens: Tensor) -> Tensor:
        high = (
            tokens / BYTE
        ).int()  # exact, and three operators in ONNX where a division of integers is eight
        return self.high_embedding(high) + self.low_embedding(tokens & (BYTE - 1))

    def nll(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        high = tokens // BYTE
        signs = torch.cat(
            [F.embedding(byte, self.signs) for byte in (high, tokens - high * BYTE)], dim=-1
        )  # [B, n, 16]
        earlier = self.earlier * torch.ones(16, 16, device=signs.device).tril(-1)[..., None]
        inner = self.units(hidden).float().unflatten(-1, (16, UNITS)) + torch.einsum(
            "bnj,iju->bniu", signs, earlier
        )
        logits = self.linear(hidden).float() + (F.silu(inner) * self.out).sum(-1)
        return F.softplus(-signs * logits).sum(-1)

    def sample(
        self, hidden: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        both = F.linear(hidden, torch.cat([self.linear.weight, self.units.weight]))
        linear, inner = both[:, :16], both[:, 16:].unflatten(1, (16, UNITS))
        noise = temperature * noise
        high_logits = self._byte(linear[:, :8], inner[:, :8], slice(0, 8))
        high = choose(high_logits, top_k, noise[:, 0])
        seen = F.embedding(
            high, self.signs @ self.earlier[8:, :8].transpose(0, 1).flatten(1)
        )  # of each byte, of the weights alone
        low_logits = self._byte(
            linear[:, 8:], inner[:, 8:] + seen.unflatten(1, (8, UNITS)), slice(8, 16)
        )
        low = choose(low_logits, top_k, noise[:, 1])
        return high * BYTE + low, torch.stack([high_logits, low_logits], dim=1)

    def _byte(self, linear: Tensor, inner: Tensor, bits: slice) -> Tensor:
        """ln p of all values of a byte: float [B, 256]. linear: float [B, 8]. inner: float [B, 8, units], earlier bytes counted in."""
        earlier, out = (
            weight.index_select(0, self.level)
            for weight in (self.earlier[bits, bits], self.out[bits])
        )
        seen = (self.before[..., None] * earlier).sum(1)  # [255, units], of the weights alone
        units = F.silu(inner.index_select(1, self.level) + seen)
        logits = linear.index_select(1, self.level) + (units * out).sum(-1)
        # Not logsigmoid: ONNX has it as the log of a sigmoid, which is minus infinity for a bit that is certain, and NaN times a path's 0.
        minus_zero = F.softplus(logits)  # -ln p of a 0
        return torch.cat([minus_zero, logits - minus_zero], dim=1) @ self.paths


def _tree() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A byte as a binary tree whose 255 inner nodes, in order of level, each tell a bit.

    signs: float [256, 8], the bits of each value as +-1, most significant first. level: int [255], which bit a node tells. before: float
    [255, 8], the bits on the way to a node as +-1, and 0. paths: float [510, 256], -1 where the way to a value takes a node's 0 (the first
    255 rows), 1 where it takes its 1.
    """
    values, bits = torch.arange(BYTE), torch.arange(8)
    ones = values[:, None] >> (7 - bits) & 1
    signs = 2.0 * ones - 1
    level = torch.cat([torch.full((2**bit,), bit) for bit in range(8)])
    within = torch.cat(
        [torch.arange(2**bit) for bit in range(8)]
    )  # a node of level i stands for the first i bits of a value
    before = torch.where(
        bits < level[:, None],
        2.0 * (within[:, None] >> (level[:, None] - 1 - bits).clamp_min(0) & 1) - 1,
        0.0,
    )
    on_the_way = values >> (8 - level[:, None]) == within[:, None]
    takes_one = ones.T[level] == 1
    return (
        signs,
        level,
        before,
        torch.cat([-(on_the_way & ~takes_one).float(), (on_the_way & takes_one).float()]),
    )


def choose(logits: Tensor, top_k: Tensor, noise: Tensor) -> Tensor:
    """One of V values for each row: int32 [B]. logits, noise: float [B, V]. top_k: int32 [1], 0 = all."""
    count = logits.shape[1]
    every = top_k < 1
    most = cast(int, torch.where(every, 1, top_k).clamp_max(count).item())
    torch._check(most >= 1)
    torch._check(most <= count)
    least = logits.topk(most, dim=1).values[:, -1:]
    return (
        torch.where(every | (logits >= least), logits + noise, -torch.inf)
        .argmax(dim=1)
        .to(torch.int32)
    )


def gumbel(source: torch.Generator, *shape: int) -> Tensor:
    """Gumbel noise, float [*shape]."""
    return -torch.log(-torch.log(torch.rand(*shape, generator=source).clamp(1e-20, 1 - 1e-7)))


OUTPUT_HEADS: dict[str, type[OutputHead]] = {"softmax": Softmax, "bits": Bits}
