"""Binary spherical quantisation: bits, tokens, gradients, entropies."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tokenizer.models import bsq
from tokenizer.models.bsq import (
    ABSENT,
    codes_from_tokens,
    factorised_entropy,
    quantise,
    tokens_from_latents,
)

tokens_of_an_image = st.lists(st.integers(ABSENT, 2**16 - 1), min_size=1, max_size=40)


@given(tokens_of_an_image)
def test_bsq_tokens_round_trip_through_codes(ids: list[int]) -> None:
    tokens = torch.tensor([ids], dtype=torch.int32)
    codes = codes_from_tokens(tokens)
    assert codes.dtype == torch.float32
    present = tokens >= 0
    assert torch.equal(codes[present].abs(), torch.full((int(present.sum()), 4, 4), 0.25))
    assert torch.equal(tokens_from_latents(codes)[present], tokens[present])
    assert not codes[~present].any()


def test_bsq_every_token_has_its_own_code() -> None:
    tokens = torch.arange(2**16, dtype=torch.int32)[None]
    assert torch.equal(tokens_from_latents(codes_from_tokens(tokens)), tokens)


def test_bsq_first_number_is_the_most_significant_bit() -> None:
    latents = torch.full((1, 4, 4, 4), -1.0)
    latents[0, 0, 0, 0] = 1.0  # row 0, column 0: 2 ** 15
    latents[0, 1, 3, 3] = 1.0  # row 3, column 3: 2 ** 0
    latents[0, 2, 1, 2] = 1.0  # row 1, column 2, so p = 6: 2 ** 9
    assert tokens_from_latents(latents).tolist() == [[32768, 1, 512, 0]]
    code = codes_from_tokens(torch.tensor([[512]], dtype=torch.int32))[0, 0]
    assert (code > 0).nonzero().tolist() == [[1, 2]]


def test_bsq_zero_is_a_zero_bit() -> None:
    assert tokens_from_latents(torch.zeros(1, 1, 4, 4)).tolist() == [[0]]


def test_bsq_absent_token_differs_from_token_zero() -> None:
    absent, zero = codes_from_tokens(torch.tensor([[ABSENT, 0]], dtype=torch.int32))[0]
    assert torch.equal(absent, torch.zeros(4, 4))
    assert torch.equal(zero, torch.full((4, 4), -0.25))


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3))
def test_bsq_codes_and_tokens_agree_at_any_latent_length(seed: int, scale: float) -> None:
    latents = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(seed)) * scale
    assert torch.allclose(
        quantise(latents).codes, codes_from_tokens(tokens_from_latents(latents)), atol=1e-6
    )


def test_bsq_gradient_is_straight_through() -> None:
    latents = torch.randn(2, 8, 4, 4, requires_grad=True)
    weight = torch.randn(2, 8, 4, 4)
    (through_codes,) = torch.autograd.grad((quantise(latents).codes * weight).sum(), latents)
    (through_unit,) = torch.autograd.grad((quantise(latents).unit * weight).sum(), latents)
    assert torch.equal(through_codes, through_unit)
    assert through_codes.any()


def naive_probabilities(x: Tensor, inverse_temperature: float) -> tuple[Tensor, Tensor]:
    """Soft assignment of x [tokens, L] to all 2**L corners, by enumeration.

    Returns (probabilities [tokens, 2**L], bits [2**L, L]).
    """
    length = x.shape[1]
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=x.dtype)] * length)
    corners = (2 * bits - 1) / math.sqrt(length)
    distances = (x[:, None] - corners).square().sum(2)
    return torch.softmax(-inverse_temperature * distances, dim=1), bits


@pytest.mark.parametrize("length", [2, 4, 9])
def test_bsq_factorised_entropy_equals_the_softmax_over_all_codes(length: int) -> None:
    torch.manual_seed(length)
    unit = torch.nn.functional.normalize(torch.randn(2, 6, length), dim=2).requires_grad_()
    active = torch.rand(2, 6) < 0.7
    active[0, 0] = True
    p, bits = naive_probabilities(unit[active], inverse_temperature=3.0)
    per_sample = -(p * p.log()).sum(1).mean()
    marginal = (p @ bits).mean(0)
    batch = -(marginal * marginal.log() + (1 - marginal) * (1 - marginal).log()).sum()
    entropy = factorised_entropy(unit, active, inverse_temperature=3.0)
    assert torch.allclose(entropy.per_sample, per_sample, atol=1e-5)
    assert torch.allclose(entropy.batch, batch, atol=1e-5)
    for ours, naive in ((entropy.per_sample, per_sample), (entropy.batch, batch)):
        (gradient,) = torch.autograd.grad(ours, unit, retain_graph=True)
        (expected,) = torch.autograd.grad(naive, unit, retain_graph=True)
        assert torch.allclose(gradient, expected, atol=1e-5)
        assert not gradient[~active].any()


def test_bsq_entropies_at_their_extremes() -> None:
    everything = torch.ones(1, 2, dtype=torch.bool)
    corner = torch.full((1, 2, 16), 0.25)
    sure = factorised_entropy(corner, everything)
    assert sure.per_sample < 1e-6
    assert sure.batch < 1e-3  # both tokens alike
    opposite = factorised_entropy(torch.cat([corner[:, :1], -corner[:, 1:]], dim=1), everything)
    assert torch.allclose(opposite.batch, torch.tensor(16 * math.log(2)))
    undecided = factorised_entropy(torch.zeros(1, 2, 16), everything)
    assert torch.allclose(undecided.per_sample, torch.tensor(16 * math.log(2)))


def test_bsq_constants_are_copied_to_a_device_once() -> None:
    constant = bsq._Constant(torch.arange(3))
    meta = torch.device("meta")
    copy = constant.on(meta)
    assert copy.device == meta
    assert constant.on(meta) is copy
    assert torch.equal(constant.on(torch.device("cpu")), torch.arange(3))
