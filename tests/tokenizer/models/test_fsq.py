"""Finite scalar quantisation: ids and codes are one to one."""

import torch

from tokenizer.models import fsq


def test_fsq_ids_round_trip_through_codes() -> None:
    codes, ids = fsq.code_table(), torch.arange(fsq.VOCAB_SIZE)
    half = torch.tensor([levels // 2 for levels in fsq.LEVELS])
    digits = (codes * half + half).round().long()
    assert torch.equal(digits, fsq.digits_from_tokens(ids))
    assert torch.equal((digits * torch.tensor([1, 8, 64, 512, 2560, 12800])).sum(1), ids)
    assert len(codes.unique(dim=0)) == fsq.VOCAB_SIZE == 64_000
    assert codes.abs().max() == 1


def test_fsq_latents_quantise_to_the_code_of_their_id() -> None:
    torch.manual_seed(0)
    z = 3 * torch.randn(5000, 6)
    tokens = fsq.tokens_from_latents(z)
    assert tokens.dtype == torch.int32
    assert torch.equal(fsq.quantise(z), fsq.code_table()[tokens])
    extremes = torch.full((2, 6), 50.0) * torch.tensor([[-1.0], [1.0]])
    assert fsq.tokens_from_latents(extremes).tolist() == [0, fsq.VOCAB_SIZE - 1]


def test_fsq_gradient_is_straight_through() -> None:
    z = torch.zeros(1, 6, requires_grad=True)
    fsq.quantise(z).sum().backward()
    assert z.grad is not None
    assert (z.grad > 0.8).all()
