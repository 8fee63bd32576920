"""Live bits and entropies of tokens with known statistics."""

import numpy as np
import pytest
import torch

from tokenizer.evaluation.bit_use import bit_entropy, bit_frequencies, id_entropy, live_bits


def test_live_bits_counts_bits_that_vary() -> None:
    tokens = torch.zeros(100, 1, dtype=torch.int32)
    assert live_bits(tokens) == 0
    tokens[:50] = 0b101
    assert live_bits(tokens) == pytest.approx(2 / 16)
    tokens[:97] = 0b101  # 97 % of images: as good as always
    assert live_bits(tokens) == 0


def test_bit_frequencies_start_with_the_most_significant_bit() -> None:
    share = bit_frequencies(torch.tensor([[0x8000, 1]], dtype=torch.int32))
    assert share[0].argmax() == 0
    assert share[1].argmax() == 15


def test_entropies_of_uniform_constant_and_distinct_ids() -> None:
    half = torch.arange(64, dtype=torch.int32) % 2  # one bit, even
    tokens = torch.stack(
        [half, torch.full((64,), 7, dtype=torch.int32), torch.arange(64, dtype=torch.int32)], dim=1
    )
    assert bit_entropy(tokens) == pytest.approx(np.array([1, 0, 6]), abs=1e-6)
    assert id_entropy(tokens) == pytest.approx(np.array([1, 0, 6]), abs=1e-6)
