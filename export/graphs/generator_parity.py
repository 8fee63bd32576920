"""Parity of a generator's step graph: ONNX Runtime by token against PyTorch without a cache."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from export.triton.generator_backend import GeneratorSession
from generator.gpt import Gpt
from generator.output_head import Sampling

# Summation order differs. Logits are below 100, and fp32 has seven digits.
MAX_LOGIT_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """Comparison of greedy sequences.

    tokens: of all sequences together. different: how many of them differ.
    largest_logit_difference: after the same tokens on both sides.
    depends_on_others: whether a bit of a logit changes when sequences share a step. Then they must
    not: a seed would not give the same tokens each time.
    """

    sequences: int
    tokens: int
    different: int
    largest_logit_difference: float
    depends_on_others: bool

    @property
    def out_of_bounds(self) -> list[str]:
        """A sentence for each bound that is broken; empty when the graph may be served."""
        broken = []
        if self.different:
            broken.append(f"{self.different} of {self.tokens:,} greedy tokens differ; none may")
        if not self.largest_logit_difference <= MAX_LOGIT_DIFFERENCE:  # NaN breaks it too
            broken.append(
                f"a logit differs by {self.largest_logit_difference:.1e}; "
                f"at most {MAX_LOGIT_DIFFERENCE:.0e} is rounding"
            )
        return broken

    def figures(self) -> dict[str, float]:
        """Name -> number, for a JSON report."""
        return {
            "sequences": self.sequences,
            "tokens": self.tokens,
            "different_tokens": self.different,
            "largest_logit_difference": self.largest_logit_difference,
            "depends_on_others": float(self.depends_on_others),
        }

    def table(self) -> str:
        """The comparison as text."""
        rows = [
            ("PyTorch against ONNX Runtime", "", "allowed"),
            ("greedy tokens compared", f"{self.tokens:,}", ""),
            ("greedy tokens that differ", f"{self.different}", "0"),
            (
                "largest difference of a logit",
                f"{self.largest_logit_difference:.1e}",
                f"{MAX_LOGIT_DIFFERENCE:.0e}",
            ),
            ("a sequence depends on others", "yes" if self.depends_on_others else "no", ""),
        ]
        return "\n".join(f"{name:<36}{value:>12}{allowed:>10}" for name, value, allowed in rows)


# (row, its tokens int [1, n]) -> (greedy tokens int [n], logits float [n, draws, values]), each
# after the tokens before it, by PyTorch without a cache
Predict = Callable[[int, Tensor], tuple[Tensor, Tensor]]


def measure(graph: bytes, prompts: list[list[int]], length: int, predict: Predict) -> Parity:
    """Compare a serialised step graph with PyTorch on a greedy sequence per prompt.

    prompts: first ids of each sequence, see export.graphs.generator_graph. length: of a sequence.
    """
    session = GeneratorSession(graph, threads=1)
    different, largest = 0, 0.0
    _, together = greedy(session, [*prompts, *prompts], length)  # at least two in each step
    depends = False
    for row, prompt in enumerate(prompts):
        tokens, logits = greedy(session, [prompt], length)
        depends |= not np.array_equal(logits[0], together[row])
        with torch.inference_mode():
            ours, our_logits = predict(row, torch.from_numpy(tokens))
        different += int((ours.numpy() != tokens[0]).sum())
        largest = max(largest, float(np.abs(our_logits.numpy() - logits[0]).max()))
    return Parity(len(prompts), len(prompts) * length, different, largest, depends)


def gpt_parity(model: Gpt, graph: bytes, labels: list[int], length: int | None = None) -> Parity:
    """Compare a GPT with its step graph. labels: class ids, -1 = none. length: all by default."""
    prediction, length = model.prediction, length or model.shape.channels

    def predict(row: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        shifted = F.pad(tokens[:, :-1], (1, 0), value=-1)
        hidden, _ = model.hidden(shifted, torch.tensor([labels[row]]), model.empty_cache(1), 0)
        zeros = torch.zeros(length, prediction.draws, prediction.values)
        return prediction.sample(hidden[0], Sampling.of(length, temperature=0.0), zeros)

    return measure(graph, [[-2 - label] for label in labels], length, predict)


def greedy(
    session: GeneratorSession, prompts: list[list[int]], length: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Greedy tokens of sequences that share each step, and the logits of these tokens.

    prompts: see `measure`. Returns int32 [B, length], float32 [B, length, draws, values].
    """
    rows = len(prompts)
    batch, tokens, logits = session.batch(rows), [], []
    for row, prompt in enumerate(prompts):
        batch.begin(row, prompt, temperature=0.0, top_k=0)
    for _ in range(length):
        batch.step(rows)
        batch.newest[:, 0] = batch.next
        tokens.append(batch.next.copy())
        logits.append(batch.logits.copy())
    return np.stack(tokens, axis=1), np.stack(logits, axis=1)
