"""A grown tokenizer starts as the small one."""

import pytest
import torch

from tokenizer.models.blocks import Res
from tokenizer.models.channeltok import SIZES, ChannelTok, NarrowDecoder, ShuffleShape
from tokenizer.net2net import grow

SMALL = ShuffleShape(channels=32, widths=(32, 32, 64, 64))
NARROW = (NarrowDecoder(budget=8, widths=(32, 32, 32, 32)),)


def _model(shape: ShuffleShape) -> ChannelTok:
    """Random weights everywhere, also where training starts at zero."""
    torch.manual_seed(0)
    model = ChannelTok(shape)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.fixture
def small() -> ChannelTok:
    return _model(SMALL)


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": (64, 96, 64, 64)},
        {"more_blocks": 2},
        {"widths": (64, 64, 128, 128), "more_blocks": 1},
        {"full_size_channels": 8, "budget_hint": True},
        {"widths": (64, 32, 64, 128), "full_size_channels": 5},
    ],
    ids=str,
)
def test_grow_keeps_tokens_and_images(small: ChannelTok, changes: dict[str, object]) -> None:
    _assert_same(small, grow(small, SMALL.model_copy(update=changes)))


def test_grow_keeps_the_last_convolution_and_the_hint() -> None:
    small = _model(SMALL.model_copy(update={"full_size_channels": 8, "budget_hint": True}))
    _assert_same(small, grow(small, small.shape.model_copy(update={"widths": (64, 64, 64, 128)})))


def _assert_same(small: ChannelTok, large: ChannelTok) -> None:
    pixels = torch.rand(4, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(
            large.encoder(pixels), small.encoder(pixels), atol=1e-4, rtol=1e-4
        )
        tokens = small.encode(pixels)
        for k in (4, 32):
            torch.testing.assert_close(
                large.decode_prefix(tokens[:, :k]),
                small.decode_prefix(tokens[:, :k]),
                atol=1e-4,
                rtol=1e-4,
            )


def test_grow_to_widths_that_are_no_multiples_starts_near() -> None:
    small = _model(SMALL.model_copy(update={"widths": (96, 96, 96, 96)}))
    large = grow(small, SMALL.model_copy(update={"widths": (96, 128, 96, 96)}))
    pixels = torch.rand(4, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        expected, grown = small.encoder(pixels), large.encoder(pixels)
    assert (grown - expected).std() < 0.3 * expected.std()


def test_grow_lets_copies_of_a_channel_diverge(small: ChannelTok) -> None:
    large = grow(small, SMALL.model_copy(update={"widths": (64, 64, 64, 64), "more_blocks": 1}))
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    (large.decoder(large.encoder(pixels)) ** 2).mean().backward()
    first = next(layer for layer in large.encoder if isinstance(layer, Res)).block[5]
    assert isinstance(first, torch.nn.Conv2d)
    assert first.weight.grad is not None
    assert not torch.allclose(first.weight.grad[0::2], first.weight.grad[1::2])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"widths": (32, 32, 32, 64)}, "widths only grow"),
        ({"more_blocks": 1}, {}, "lose blocks"),
        ({"budget_hint": True}, {}, "budget hint"),
        ({"full_size_channels": 8}, {"full_size_channels": 5}, "full size"),
        ({}, {"channels": 64}, "channels"),
        ({"narrow_decoders": NARROW}, {}, "narrow decoders"),
        ({}, {"narrow_decoders": NARROW}, "narrow decoders"),
    ],
    ids=str,
)
def test_grow_refuses_impossible_shapes(
    before: dict[str, object], after: dict[str, object], message: str
) -> None:
    small = ChannelTok(SMALL.model_copy(update=before))
    with pytest.raises(ValueError, match=message):
        grow(small, SMALL.model_copy(update=after))


def test_grow_refuses_other_tokenizers() -> None:
    with pytest.raises(ValueError, match="demo's kind"):
        grow(ChannelTok(SIZES["tiny"]), SMALL)
