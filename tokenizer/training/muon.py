"""Muon optimiser: momentum updates orthogonalised by Newton-Schulz, for matrices and convolutions.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. torch.optim.Muon takes 2-D
matrices only and computes in bfloat16, which is 25 times slower than fp32 on a processor without
it. docs/decisions/0008 has the gain measured here.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients and steps of the source: singular values end between 0.68 and 1.13.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions, flattened to (first dimension) x (all others).

    rate: as for AdamW, because updates are scaled to AdamW's usual root mean square of 0.2 (Liu et
    al. 2025, arXiv 2502.16982).
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        rate: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(weights, {"lr": rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the weights from their gradients; `closure` is ignored."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(state["momentum"], group["momentum"])  # Nesterov
                matrix = update.flatten(1)
                scale = 0.2 * math.sqrt(max(matrix.shape))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(
                    orthogonalised(matrix).reshape(weight.shape), alpha=-group["lr"] * scale
                )


def orthogonalised(matrix: Tensor) -> Tensor:
    """Approximately the nearest orthogonal matrix: float [M, N] to the same shape.

    Singular values become 0.68 to 1.13. Newton-Schulz runs on the Gram matrix of the short side:
    every step is a polynomial of it, and for the [256, 2304] of a 3x3 convolution that is a third
    of the work.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    a, b, c = NEWTON_SCHULZ
    matrix = matrix / (matrix.norm() + 1e-7)
    gram = matrix @ matrix.T
    product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(STEPS):
        step = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal().add_(a)
        product = step @ product
        gram = step @ gram @ step
    return product @ matrix
