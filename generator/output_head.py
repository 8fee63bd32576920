"""Output heads: predict and sample the next token from a hidden state (softmax, or bit by bit).

docs/decisions/0029 compares them in bits per token. Every head samples by the same rule: among the
`top_k` likeliest values, of these among the likeliest that together have `top_p` of the
probability, the one with the largest logit plus temperature times Gumbel noise. This draws from the
softmax of logits / temperature (Gumbel-max: Maddison, Tarlow, Minka 2014, arXiv 1411.0030); at
temperature 0 it is greedy. The caller passes the noise, so that a seed gives the same tokens on
every engine.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BYTE = 256  # values of a byte
UNITS = 24  # hidden units of each bit's network


class Sampling(NamedTuple):
    """How the rows of a batch are sampled; each a tensor [B].

    temperature: float, 0 = greedy. top_k: int32, 0 = all. top_p: float, over 0 to 1; 1 = all
    (nucleus sampling: Holtzman et al. 2020, arXiv 1904.09751).
    guidance, partner: classifier-free guidance (Ho, Salimans 2022, arXiv 2207.12598): logits are
    l(partner) + guidance (l - l(partner)), with float guidance and the partner's row as int32.
    A row that is its own partner stays as it is.
    leader: int32, the row whose choice a row takes; its own in most. A partner takes the choice of
    the row that it guides.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    guidance: Tensor
    partner: Tensor
    leader: Tensor

    @staticmethod
    def of(
        rows: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        *,
        pairs: bool = False,
    ) -> "Sampling":
        """The same for all rows. pairs: the second half of the rows guides the first."""
        order = torch.arange(rows, dtype=torch.int32)
        half = rows // 2
        return Sampling(
            torch.full((rows,), temperature),
            torch.full((rows,), top_k, dtype=torch.int32),
            torch.full((rows,), top_p),
            torch.full((rows,), guidance),
            # Not one tensor twice: torch.export would take both for one input.
            torch.cat([order[half:], order[half:]]) if pairs else order.clone(),
            torch.cat([order[:half], order[:half]]) if pairs else order.clone(),
        )


class OutputHead(nn.Module, ABC):
    """draws: choices per token. values: values per choice. Noise is float [B, draws, values]."""

    draws: int
    values: int

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids int [B, n] to embeddings float [B, n, d]; undefined for negative ids."""

    @abstractmethod
    def nll(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """-ln p of each token given its hidden state: float [B, n].

        hidden: float [B, n, d]. tokens: int [B, n].
        """

    @abstractmethod
    def sample(self, hidden: Tensor, sampling: Sampling, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Sample token ids int32 [B]; also returns their logits float [B, draws, values].

        hidden: float [B, d]. noise: Gumbel noise -ln(-ln u), float [B, draws, values].
        """


class Softmax(OutputHead):
    """A softmax over all ids."""

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

    def sample(self, hidden: Tensor, sampling: Sampling, noise: Tensor) -> tuple[Tensor, Tensor]:
        logits = guided(self.head(hidden)[:, : self.vocab_size], sampling)
        return choose(logits, sampling, noise[:, 0]), logits[:, None]


class Bits(OutputHead):
    """The 16 bits of an id in order, each conditioned on the previous bits by a small network.

    The network of a bit sees the hidden state and the previous bits as +-1. For codes that are
    corners of a cube (tokenizer.models.bsq), where ids that share bits are similar.

    Sampling is not bit by bit: a byte has 255 prefixes with a next bit. All are computed at once,
    so a token is two choices of 256 values, the high byte and then the low byte.
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
                f"the bits head needs a vocabulary of {BYTE**2:,} and no special ids, not "
                f"{vocab_size:,} and {specials}"
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
        # [bit, earlier bit, unit]; entries whose bit is not earlier are masked
        self.earlier = nn.Parameter(0.1 * torch.randn(16, 16, UNITS))
        self.out = nn.Parameter(torch.zeros(16, UNITS))
        for name, constant in zip(("signs", "level", "before", "paths"), _tree(), strict=True):
            self.register_buffer(name, constant, persistent=False)

    def embed(self, tokens: Tensor) -> Tensor:
        # Exact, and three operators in ONNX instead of an integer division's eight.
        high = (tokens / BYTE).int()
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

    def sample(self, hidden: Tensor, sampling: Sampling, noise: Tensor) -> tuple[Tensor, Tensor]:
        both = F.linear(hidden, torch.cat([self.linear.weight, self.units.weight]))
        linear, inner = both[:, :16], both[:, 16:].unflatten(1, (16, UNITS))
        high_logits = guided(self._byte(linear[:, :8], inner[:, :8], slice(0, 8)), sampling)
        high = choose(high_logits, sampling, noise[:, 0])
        # A table per high byte, which depends on the weights only
        seen = F.embedding(high, self.signs @ self.earlier[8:, :8].transpose(0, 1).flatten(1))
        low_logits = guided(
            self._byte(linear[:, 8:], inner[:, 8:] + seen.unflatten(1, (8, UNITS)), slice(8, 16)),
            sampling,
        )
        low = choose(low_logits, sampling, noise[:, 1])
        return high * BYTE + low, torch.stack([high_logits, low_logits], dim=1)

    def _byte(self, linear: Tensor, inner: Tensor, bits: slice) -> Tensor:
        """ln p of all values of a byte: float [B, 256].

        linear: float [B, 8]. inner: float [B, 8, units], including the effect of earlier bytes.
        """
        earlier, out = (
            weight.index_select(0, self.level)
            for weight in (self.earlier[bits, bits], self.out[bits])
        )
        seen = (self.before[..., None] * earlier).sum(1)  # [256, units], depends on weights only
        units = F.silu(inner.index_select(1, self.level) + seen)
        logits = linear.index_select(1, self.level) + (units * out).sum(-1)
        # Not logsigmoid: ONNX writes it as log(sigmoid), which is -inf for a certain bit, and NaN
        # times a path's 0.
        minus_zero = F.softplus(logits)  # -ln p of a 0
        return torch.cat([minus_zero, logits - minus_zero], dim=1) @ self.paths


def _tree() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A byte as a binary tree: each of its 255 inner nodes, in order of level, decides a bit.

    The last of 256 nodes is on no path. With it a sequence's numbers fill whole vectors: a rest is
    computed by other instructions, which round differently, and belongs to another number where
    other sequences follow in the batch.

    signs: float [256, 8], bits of each value as +-1, most significant first.
    level: int [256], the bit that a node decides.
    before: float [256, 8], bits on the path to a node as +-1, then 0.
    paths: float [512, 256], -1 where the path to a value takes a node's 0 (the first 256 rows), and
    1 where it takes its 1 (the others).
    """
    values, bits = torch.arange(BYTE), torch.arange(8)
    ones = values[:, None] >> (7 - bits) & 1
    signs = 2.0 * ones - 1
    level = torch.cat([*(torch.full((2**bit,), bit) for bit in range(8)), torch.tensor([7])])
    # A node of level i stands for the first i bits of a value; the last one for none.
    within = torch.cat([*(torch.arange(2**bit) for bit in range(8)), torch.tensor([2**7])])
    before = torch.where(
        bits < level[:, None],
        2.0 * (within[:, None] >> (level[:, None] - 1 - bits).clamp_min(0) & 1) - 1,
        0.0,
    )
    on_path = values >> (8 - level[:, None]) == within[:, None]
    takes_one = ones.T[level] == 1
    return (
        signs,
        level,
        before,
        torch.cat([-(on_path & ~takes_one).float(), (on_path & takes_one).float()]),
    )


def guided(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits float [B, V] after classifier-free guidance; see Sampling."""
    without = logits.index_select(0, sampling.partner)
    return without + sampling.guidance[:, None] * (logits - without)


def choose(logits: Tensor, sampling: Sampling, noise: Tensor) -> Tensor:
    """Sample one of V values per row: int32 [B]. logits, noise: float [B, V]."""
    count = logits.shape[1]
    temperature, top_p = sampling.temperature[:, None], sampling.top_p[:, None]
    every = (sampling.top_k < 1)[:, None]
    limits = torch.where(every, count, sampling.top_k[:, None]).clamp_max(count)
    whole = every & (top_p >= 1)  # nothing to leave out, so nothing to sort
    most = cast(int, torch.where(whole, 1, limits).max().item())
    torch._check(most >= 1)
    torch._check(most <= count)
    likeliest = logits.topk(most, dim=1).values
    kept = torch.arange(most, device=logits.device) < limits
    # At temperature 0 the likeliest value has all of the probability.
    scaled = (likeliest - likeliest[:, :1]) / temperature.clamp_min(1e-6)
    shares = torch.where(kept, scaled.exp(), 0.0)
    before = shares.cumsum(1) - shares
    kept = kept & ((top_p >= 1) | (before < top_p * shares.sum(1, keepdim=True)))
    least = likeliest.gather(1, kept.sum(1, keepdim=True).clamp_min(1) - 1)
    chosen = torch.where(whole | (logits >= least), logits + temperature * noise, -torch.inf)
    return chosen.argmax(dim=1).to(torch.int32).index_select(0, sampling.leader)


def by_position(temperature: float, final: float | None, channels: int) -> Tensor:
    """Temperature of each token, float [channels], linearly to `final`. None: the same for all."""
    return torch.linspace(temperature, temperature if final is None else final, channels)


def gumbel(source: torch.Generator, *shape: int) -> Tensor:
    """Gumbel noise float [*shape]."""
    return -torch.log(-torch.log(torch.rand(*shape, generator=source).clamp(1e-20, 1 - 1e-7)))


OUTPUT_HEADS: dict[str, type[OutputHead]] = {"softmax": Softmax, "bits": Bits}
