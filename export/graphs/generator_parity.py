"""Does a step graph do what the checkpoint does? PyTorch over whole sequences, without a cache, against ONNX Runtime token by token."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from export.triton.generator_backend import Steps, gumbel
from generator.gpt import Gpt

# The two add up in another order. Logits are some tens at most, of which fp32 has seven digits.
MAX_LOGIT_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """sequences: how many were compared, all greedy. tokens: of them together. different: tokens that differ.

    largest_logit_difference: where both were given the same tokens before.
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
                f"a logit differs by {self.largest_logit_difference:.1e}; at most {MAX_LOGIT_DIFFERENCE:.0e} is rounding"
            )
        return broken

    def figures(self) -> dict[str, float]:
        """A flat object of name -> number, as every report in build/ is."""
        return {
            "sequences": self.sequences,
            "tokens": self.tokens,
            "different_tokens": self.different,
            "largest_logit_difference": self.largest_logit_difference,
        }

    def table(self) -> str:
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
    """Compare `model` with its serialised step graph on one greedy sequence of each class in `labels` (-1 = none)."""
    steps = Steps(graph, threads=1)
    prediction = model.prediction
    different, largest = 0, 0.0
    for label in labels:
        tokens, logits = greedy(steps, label, length)
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


def greedy(steps: Steps, label: int, length: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The most likely tokens one after the other, with the cache: int32 [length], and their logits float32 [length, draws, values]."""
    tokens, logits = [], []
    newest, generation = [-1], steps.begin(label, temperature=0.0, top_k=0)
    for index in range(length):
        token, scores = generation.step(newest, gumbel(0, index, steps.draws, steps.values))
        tokens.append(token)
        logits.append(scores)
        newest = [token]
    return np.array(tokens, np.int32), np.stack(logits)
