"""A grown tokenizer starts as the small one."""

import pytest
import torch

from tokenizer.models.blocks import Res
from tokenizer.models.channeltok import SIZES, ChannelTok, ShuffleShape
from tokenizer.net2net import grow


@pytest.fixture
def small() -> ChannelTok:
    """Random weights everywhere, also where training starts at zero."""
    torch.manual_seed(0)
    model = ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 64, 64)))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.mark.parametrize(
    ("widths", "more_blocks"),
    [((64, 96, 64, 64), 0), ((32, 32, 64, 64), 2), ((64, 64, 128, 128), 1)],
)
def test_grow_keeps_tokens_and_images(
    small: ChannelTok, widths: tuple[int, int, int, int], more_blocks: int
) -> None:
    large = grow(small, widths, more_blocks)
    pixels = torch.rand(4, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(
            large.encoder(pixels), small.encoder(pixels), atol=1e-4, rtol=1e-4
        )
        tokens = small.encode(pixels)
        torch.testing.assert_close(large.decode(tokens), small.decode(tokens), atol=1e-4, rtol=1e-4)


def test_grow_lets_copies_of_a_channel_diverge(small: ChannelTok) -> None:
    large = grow(small, (64, 64, 64, 64), 1)
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    (large.decoder(large.encoder(pixels)) ** 2).mean().backward()
    first = next(layer for layer in large.encoder if isinstance(layer, Res)).block[5]
    assert isinstance(first, torch.nn.Conv2d)
    assert first.weight.grad is not None
    assert not torch.allclose(first.weight.grad[0::2], first.weight.grad[1::2])


def test_grow_refuses_impossible_shapes(small: ChannelTok) -> None:
    with pytest.raises(ValueError, match="multiple"):
        grow(small, (32, 32, 96, 64), 0)
    with pytest.raises(ValueError, match="lose blocks"):
        grow(grow(small, (32, 32, 64, 64), 1), (32, 32, 64, 64), 0)
    with pytest.raises(ValueError, match="demo's kind"):
        grow(ChannelTok(SIZES["tiny"]), (64, 64, 64, 64), 0)
