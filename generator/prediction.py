"""How the next token is told from a position's vector. docs/decisions/0029 has what each way costs in bits per token.

Every way samples by the same rule: of the `top_k` most likely values the one whose logit plus temperature times Gumbel noise is the
largest. That draws from the softmax of logits / temperature (Gumbel-max: Maddison, Tarlow, Minka 2014, arXiv 1411.0030), and at temperature
0 it takes the most likely. The noise comes from outside, so that one seed gives the same tokens on every engine.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = 256  # values of a byte


class Prediction(nn.Module, ABC):
    """draws, values: of each token, how many choices it is made of and of how many values; noise is float [B, draws, values]."""

    draws: int
    values: int

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids int [B, n], not negative, to float [B, n, d]."""

    @abstractmethod
    def nll(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """-ln p of each token given its position's vector: float [B, n]. hidden: float [B, n, d]. tokens: int [B, n]."""

    @abstractmethod
    def sample(self, hidden: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids int32 [B], and the logits float [B, draws, values] that they were drawn from.

        hidden: float [B, d]. temperature: float [B], 0 = the most likely. top_k: int32 [B], 0 = all. noise: float [B, draws, values],
        Gumbel, -ln(-ln u).
        """


class Softmax(Prediction):
    """One choice of all ids."""

    draws = 1

    def __init__(self, codes: int, specials: int, width: int) -> None:
        super().__init__()
        self.codes = self.values = codes
        self.embedding = nn.Embedding(codes + specials, width)
        self.head = nn.Linear(width, codes + specials, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.head.weight)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)

    def nll(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self.head(hidden).float().transpose(1, 2), tokens.long(), reduction="none")

    def sample(self, hidden: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(hidden)[:, : self.codes]
        return choose(logits, temperature, top_k, noise[:, 0]), logits[:, None]


class Halves(Prediction):
    """The high byte, then the low byte given it: two choices of 256 in the place of one of 65,536. Codes must be a multiple of 256."""

    draws, values = 2, HALF

    def __init__(self, codes: int, specials: int, width: int) -> None:
        super().__init__()
        if codes != HALF**2 or specials:
            raise ValueError(f"halves are two bytes: they tell {HALF**2:,} codes and no special ids, not {codes:,} and {specials}")
        self.high_embedding, self.low_embedding = nn.Embedding(HALF, width), nn.Embedding(HALF, width)
        self.high = nn.Linear(width, HALF, bias=False)
        self.given_high = nn.Embedding(HALF, width)
        self.mix = nn.Linear(width, width, bias=False)
        self.low = nn.Linear(width, HALF, bias=False)
        for embedding in (self.high_embedding, self.low_embedding, self.given_high):
            nn.init.normal_(embedding.weight, std=0.02)
        for head in (self.high, self.low):
            nn.init.zeros_(head.weight)

    def embed(self, tokens: Tensor) -> Tensor:
        high = tokens // HALF
        return self.high_embedding(high) + self.low_embedding(tokens - high * HALF)

    def nll(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        high = tokens.long() // HALF
        parts = (self.high(hidden), high), (self._low_logits(hidden, high), tokens - high * HALF)
        first, second = (F.cross_entropy(logits.float().transpose(1, 2), half.long(), reduction="none") for logits, half in parts)
        return first + second

    def sample(self, hidden: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        high_logits = self.high(hidden)
        high = choose(high_logits, temperature, top_k, noise[:, 0])
        low_logits = self._low_logits(hidden, high)
        low = choose(low_logits, temperature, top_k, noise[:, 1])
        return high * HALF + low, torch.stack([high_logits, low_logits], dim=1)

    def _low_logits(self, hidden: Tensor, high: Tensor) -> Tensor:
        return self.low(F.silu(self.mix(hidden) + self.given_high(high)))


def choose(logits: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> Tensor:
    """One of V values for each row: int32 [B]. logits, noise: float [B, V]. temperature: float [B]. top_k: int32 [B], 0 = all."""
    count = logits.shape[1]
    descending = logits.sort(dim=1, descending=True).values
    rank = torch.where((top_k < 1) | (top_k > count), count, top_k) - 1
    least = descending.gather(1, rank.long()[:, None])
    scores = torch.where(logits >= least, logits + temperature[:, None] * noise, -torch.inf)
    return scores.argmax(dim=1).to(torch.int32)


PREDICTIONS: dict[str, type[Prediction]] = {"softmax": Softmax, "halves": Halves}
