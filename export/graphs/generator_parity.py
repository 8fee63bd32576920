"""Parity of a generator's step graph: ONNX Runtime by token against PyTorch without a cache."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from export.triton.generator_backend import GeneratorSession, gumbel
from generator.gpt import Gpt

# Summation order differs. Logits are below 100, and fp32 has seven digits.
MAX_LOGIT_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """Comparison of greedy sequences.

    tokens: of all sequences together. different: how many of them differ.
    largest_logit_difference: after the same tokens on both sides.
    """

    sequences: int
    tokens: int
    different: int
    largest_logit_difference: float

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
        ]
        return "\n".join(f"{name:<36}{value:>12}{allowed:>10}" for name, value, allowed in rows)


def measure(model: Gpt, graph: bytes, labels: list[int], length: int) -> Parity:
    """Compare a model with its serialised step graph on a greedy sequence per label (-1 = none)."""
    session = GeneratorSession(graph, threads=1)
    prediction = model.prediction
    different, largest = 0, 0.0
    for label in labels:
        tokens, logits = greedy(session, label, length)
        sequence, classes = torch.from_numpy(tokens)[None], torch.tensor([label])
        with torch.inference_mode():
            hidden, _ = model.hidden(
                F.pad(sequence[:, :-1], (1, 0), value=-1), classes, model.empty_cache(1), 0
            )
            zeros = torch.zeros(length, prediction.draws, prediction.values)
            ours, our_logits = prediction.sample(
                hidden[0], torch.zeros(1), torch.zeros(1, dtype=torch.int32), zeros
            )
        different += int((ours.numpy() != tokens).sum())
        largest = max(largest, float(np.abs(our_logits.numpy() - logits).max()))
    return Parity(len(labels), len(labels) * length, different, largest)


def greedy(
    session: GeneratorSession, label: int, length: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Greedy tokens int32 [length] and their logits float32 [length, draws, values]."""
    tokens, logits = [], []
    newest, generation = [-1], session.begin(label, temperature=0.0, top_k=0)
    for index in range(length):
        token, scores = generation.step(newest, gumbel(0, index, session.draws, session.values))
        tokens.append(token)
        logits.append(scores)
        newest = [token]
    return np.array(tokens, np.int32), np.stack(logits)
