"""What the judge measures, by hand."""

import numpy as np
import pytest
import torch

from tokenizer import evaluate
from tokenizer.channeltok import ChannelTok, ShuffleShape
from tokenizer.data import to_unit


def test_pixels_come_back_as_they_went_in() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(evaluate.to_uint8(to_unit(every)), every)


def test_pixels_are_rounded_and_clamped() -> None:
    pixels = torch.tensor([-3.0, -1.0, 0.0, 0.0001, 1.0, 7.0]).reshape(1, 1, 1, 6)
    assert evaluate.to_uint8(pixels).flatten().tolist() == [0, 0, 128, 128, 255, 255]


def test_psnr_by_hand() -> None:
    black = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    assert evaluate.psnr(black, black + 1) == pytest.approx(48.13, abs=0.01)
    assert evaluate.psnr(black, black + 255) == pytest.approx(0.0)


def test_live_bits_are_those_that_change() -> None:
    tokens = torch.zeros(100, 1, dtype=torch.int32)
    assert evaluate.live_bits(tokens) == 0
    tokens[:50] = 0b101
    assert evaluate.live_bits(tokens) == pytest.approx(2 / 16)
    tokens[:97] = 0b101  # 97 % of pictures: as good as always
    assert evaluate.live_bits(tokens) == 0


def test_a_budget_is_a_prefix_and_the_rest_is_absent() -> None:
    torch.manual_seed(0)
    model = ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))).eval()
    photos = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    tokens = evaluate.encode(model, photos)
    other_tail = tokens.clone()
    other_tail[:, 8:] = 0
    assert np.array_equal(evaluate.decode(model, tokens, 8), evaluate.decode(model, other_tail, 8))
    assert not np.array_equal(evaluate.decode(model, tokens, 32), evaluate.decode(model, other_tail, 32))
