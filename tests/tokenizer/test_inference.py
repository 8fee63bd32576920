"""Images to tokens to images."""

import numpy as np
import torch

from tokenizer import inference
from tokenizer.inference import to_unit
from tokenizer.models.channeltok import ChannelTok, ShuffleShape


def test_to_unit_and_to_uint8_are_inverse() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(inference.to_uint8(to_unit(every)), every)


def test_to_uint8_rounds_and_clamps() -> None:
    pixels = torch.tensor([-3.0, -1.0, 0.0, 0.0001, 1.0, 7.0]).reshape(1, 1, 1, 6)
    assert inference.to_uint8(pixels).flatten().tolist() == [0, 0, 128, 128, 255, 255]


def test_decode_ignores_tokens_past_the_budget() -> None:
    torch.manual_seed(0)
    model = ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))).eval()
    photos = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    tokens = inference.encode(model, photos)
    other_tail = tokens.clone()
    other_tail[:, 8:] = 0
    assert np.array_equal(
        inference.decode(model, tokens, 8), inference.decode(model, other_tail, 8)
    )
    assert not np.array_equal(
        inference.decode(model, tokens, 32), inference.decode(model, other_tail, 32)
    )


def test_budgets_end_with_the_channels() -> None:
    assert inference.budgets(256) == (8, 16, 32, 64, 128, 256)
    assert inference.budgets(512)[-1] == 512


def test_to_unit_spans_minus_one_to_one() -> None:
    photo = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    assert torch.allclose(to_unit(photo).flatten(), torch.tensor([-1.0, -0.6, 1.0]))
