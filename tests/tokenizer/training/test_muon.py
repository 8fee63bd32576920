"""Muon: orthogonal updates of any shape, and convergence."""

import pytest
import torch
from torch import nn

from tokenizer.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(32, 288), (288, 32), (32, 32), (1, 9)])
def test_orthogonalised_has_singular_values_near_one_and_keeps_directions(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    rank = min(shape)
    matrix = left @ torch.diag(torch.logspace(0, -2, rank)) @ right
    found = orthogonalised(matrix)
    assert found.shape == shape
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() <= values.max() < 1.2
    # The singular vectors are those of the input: in their basis the result is diagonal.
    inner = left.T @ found @ right.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-3


def test_orthogonalised_keeps_zero() -> None:
    assert torch.equal(orthogonalised(torch.zeros(4, 9)), torch.zeros(4, 9))


def test_muon_update_is_as_large_as_adamws() -> None:
    weight = nn.Parameter(torch.zeros(64, 32, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    Muon([weight], rate=0.5, weight_decay=0).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.5 * 0.2, rel=0.2)


def test_muon_solves_a_badly_scaled_problem() -> None:
    """Columns whose scales differ by 10 slow down gradient descent, but not Muon."""
    torch.manual_seed(0)
    inputs = torch.randn(256, 16) * torch.logspace(0, -1, 16)
    target = torch.randn(8, 16)
    weight = nn.Parameter(torch.zeros(8, 16))
    optimiser = Muon([weight], rate=0.1, weight_decay=0)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimiser.zero_grad()
        (inputs @ (weight - target).T).square().mean().backward()
        optimiser.step()
    assert (weight - target).abs().max() < 0.1
