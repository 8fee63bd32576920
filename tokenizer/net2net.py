"""Command `python -m tokenizer.net2net`: grow a trained tokenizer wider or deeper.

Net2Net (Chen, Goodfellow, Shlens 2016, arXiv 1511.05641). Wider: channels are copied, and each
reader splits its weight among the copies by random shares, so that training can separate them.
Deeper: a new Res starts as an identity, and so does a last convolution at full size.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from tokenizer import checkpoint
from tokenizer.models.base import Tokenizer
from tokenizer.models.blocks import Attn, parameter_count
from tokenizer.models.channeltok import SIZES, ChannelTok, ShuffleDecoder, ShuffleShape

COLOURS = 3
GROWABLE = {name: shape for name, shape in SIZES.items() if isinstance(shape, ShuffleShape)}


def grow(small: Tokenizer, shape: ShuffleShape) -> ChannelTok:
    """A larger model, of `shape`, that starts as the small one.

    Where each new width is a multiple of the old one, tokens and images stay the same, up to
    rounding. Other widths change the statistics of GroupNorm, so the model only starts near the
    small one. Raises ValueError for a model of another kind, and for a shape with other channels,
    smaller widths, fewer blocks, or without a part that the small model has.
    """
    before = _shuffle_shape(small)
    assert isinstance(small, ChannelTok)
    if (before.image_size, before.channels, before.patch) != (
        shape.image_size,
        shape.channels,
        shape.patch,
    ):
        raise ValueError("a tokenizer cannot change its image size, channels or patch")
    if before.narrow_decoders or shape.narrow_decoders:
        raise ValueError("narrow decoders do not grow: train them after the rest has grown")
    if before.full_size_channels not in (0, shape.full_size_channels):
        raise ValueError("a tokenizer cannot change its feature maps at full size")
    if before.budget_hint and not shape.budget_hint:
        raise ValueError("a tokenizer cannot lose its budget hint")
    large = ChannelTok(shape)
    decoder, large_decoder = small.decoder, large.decoder
    assert isinstance(decoder, ShuffleDecoder)
    assert isinstance(large_decoder, ShuffleDecoder)
    for old, new in ((small.encoder, large.encoder), (decoder, large_decoder)):
        assert isinstance(old, nn.Sequential)
        assert isinstance(new, nn.Sequential)
        _grow(old, new)
    if decoder.hint is not None and large_decoder.hint is not None:
        large_decoder.hint.data = _copies(decoder.hint.data.T, large_decoder.hint.shape[1]).T
    if shape.full_size_channels and not before.full_size_channels:
        _overlap(decoder, large_decoder)
    return large.eval()


def _grow(old: nn.Sequential, new: nn.Sequential) -> None:
    """Copy weights layer by layer, matched by type and order; other layers stay as initialised."""
    remaining = list(old)
    for layer in new:
        if remaining and type(layer) is type(remaining[0]):
            small = remaining.pop(0)
            weights = small.state_dict()
            layer.load_state_dict(
                {
                    name: _spread(weights[name], weight.shape)
                    for name, weight in layer.state_dict().items()
                }
            )
            if isinstance(layer, Attn) and isinstance(small, Attn):
                # n copies make scores n / sqrt(n) times as large
                for parameter in layer.q.parameters():
                    parameter.data *= math.sqrt(small.q.in_channels / layer.q.in_channels)
    if remaining:
        raise ValueError("a tokenizer cannot lose blocks")


@torch.no_grad()
def _overlap(small: ShuffleDecoder, large: ShuffleDecoder) -> None:
    """Let the last convolution at full size start as an identity on the small decoder's pixels.

    The other feature maps start at random, and unread.
    """
    patches, large_patches, last = small[-2], large[-3], large[-1]
    assert isinstance(patches, nn.Conv2d)
    assert isinstance(large_patches, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    large_patches.reset_parameters()
    rows = patches.out_channels
    assert patches.bias is not None
    assert large_patches.bias is not None
    large_patches.weight[:rows] = _spread(patches.weight, (rows, *large_patches.weight.shape[1:]))
    large_patches.bias[:rows] = patches.bias
    for parameter in last.parameters():
        parameter.zero_()
    for colour in range(COLOURS):
        last.weight[colour, colour, 1, 1] = 1


def _spread(weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """Copy rows (outputs, or a norm's channels); split columns (inputs) among copies."""
    rows = _copies(weight, size[0])
    if weight.ndim < 2 or size[1] == weight.shape[1]:
        return rows
    sources = _sources(weight.shape[1], size[1])
    shares = torch.rand(*rows.shape[:1], size[1], *rows.shape[2:]) + 0.5
    sums = torch.zeros_like(rows).index_add_(1, sources, shares)
    return rows[:, sources] * shares / sums[:, sources]


def _copies(weight: Tensor, rows: int) -> Tensor:
    return weight[_sources(len(weight), rows)]


def _sources(before: int, now: int) -> Tensor:
    """For each of `now` channels, the one of `before` that it copies: in the same norm group."""
    if now < before:
        raise ValueError(f"a width of {before} cannot become {now}: widths only grow")
    return torch.arange(now) * before // now


def main() -> None:
    """Grow the checkpoint that the command line names. Exits with a message when it cannot grow."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenizer.net2net",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--size", choices=GROWABLE, help="grow into this size")
    target.add_argument("--widths", type=int, nargs=4, help="widths at S/4, S/8, S/16 and S/32")
    parser.add_argument(
        "--more-blocks", type=int, default=0, help="with --widths: additional Res at S/4 and S/8"
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        help="for `python -m tokenizer.train --start-from`",
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    small = checkpoint.load(options.checkpoint)
    try:
        large = grow(small, _shape(small, options))
    except ValueError as error:
        sys.exit(str(error))
    facts = {
        name: value
        for name, value in checkpoint.facts(options.checkpoint).items()
        if name != "shape"
    }
    checkpoint.save(large, options.output, facts)
    print(
        f"{parameter_count(small) / 1e6:.1f} M parameters grew to "
        f"{parameter_count(large) / 1e6:.1f} M: {options.output}"
    )


def _shape(small: Tokenizer, options: argparse.Namespace) -> ShuffleShape:
    if options.size:
        return GROWABLE[options.size]
    return _shuffle_shape(small).model_copy(
        update={"widths": tuple(options.widths), "more_blocks": options.more_blocks}
    )


def _shuffle_shape(model: Tokenizer) -> ShuffleShape:
    if not isinstance(model.shape, ShuffleShape):
        raise ValueError("only tokenizers of the demo's kind (ShuffleShape) can grow")
    return model.shape


if __name__ == "__main__":
    main()
