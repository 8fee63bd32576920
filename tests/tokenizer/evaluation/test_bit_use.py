"""Live bits and entropies of tokens whose use is known."""

import numpy as np
import pytest
import torch

from tokenizer.evaluation.bit_use import bit_entropy, id_entropy, live_bits, ones


def test_live_bits_are_those_that_change() -> None:
    tokens = torch.zeros(100, 1, dtype=torch.int32)
    assert live_bits(tokens) == 0
    tokens[:50] = 0b101
    assert live_bits(tokens) == pytest.approx(2 / 16)
    tokens[:97] = 0b101  # 97 % of images: as good as always
    assert live_bits(tokens) == 0


def test_the_first_bit_is_the_most_significant() -> None:
    share = ones(torch.tensor([[0x8000, 1]], dtype=torch.int32))
    assert share[0].argmax() == 0
    assert share[1].argmax() == 15


def test_entropies_of_even_constant_and_different_ids() -> None:
    half = torch.arange(64, dtype=torch.int32) % 2  # one bit, even
    tokens = torch.stack(
        [half, torch.full((64,), 7, dtype=torch.int32), torch.arange(64, dtype=torch.int32)], dim=1
    )
    assert bit_entropy(tokens) == pytest.approx(np.array([1, 0, 6]), abs=1e-6)
    assert id_entropy(tokens) == pytest.approx(np.array([1, 0, 6]), abs=1e-6)
