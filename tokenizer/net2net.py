"""Command `python -m tokenizer.net2net`: grow a trained tokenizer wider or deeper.

Net2Net (Chen, Goodfellow, Shlens 2016, arXiv 1511.05641). Wider: channels are copied, and each
reader splits its weight among the copies by random shares, so that training can separate them.
Deeper: a new Res starts as an identity.
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
from tokenizer.models.channeltok import ChannelTok, ShuffleShape


def grow(small: Tokenizer, widths: tuple[int, int, int, int], more_blocks: int) -> ChannelTok:
    """A larger model with the same tokens and images, up to rounding.

    widths: new ShuffleShape.widths, each a multiple of the old one. more_blocks: new
    ShuffleShape.more_blocks. Raises ValueError for any other shape, or sizes it cannot grow into.
    """
    if not isinstance(small, ChannelTok) or not isinstance(small.shape, ShuffleShape):
        raise ValueError("only tokenizers of the demo's kind (ShuffleShape) can grow")
    shape = small.shape.model_copy(update={"widths": widths, "more_blocks": more_blocks})
    large = ChannelTok(shape)
    for old, new in ((small.encoder, large.encoder), (small.decoder, large.decoder)):
        assert isinstance(old, nn.Sequential)
        assert isinstance(new, nn.Sequential)
        _grow(old, new)
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


def _spread(weight: Tensor, size: torch.Size) -> Tensor:
    """Repeat rows (outputs, or a norm's channels); split columns (inputs) among copies."""
    if any(now % before for now, before in zip(size, weight.shape, strict=True)):
        raise ValueError(
            f"{list(weight.shape)} cannot grow into {list(size)}: each width must be a multiple of "
            "the old one"
        )
    rows = weight.repeat_interleave(size[0] // weight.shape[0], dim=0)
    if weight.ndim < 2 or (copies := size[1] // weight.shape[1]) == 1:
        return rows
    shares = torch.rand(*rows.shape[:2], copies, *rows.shape[2:]) + 0.5
    shares /= shares.sum(dim=2, keepdim=True)
    return (rows.unsqueeze(2) * shares).flatten(1, 2)


def main() -> None:
    """Grow the checkpoint that the command line names. Exits with a message when it cannot grow."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenizer.net2net",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--widths", type=int, nargs=4, required=True, help="widths at S/4, S/8, S/16 and S/32"
    )
    parser.add_argument(
        "--more-blocks", type=int, default=0, help="additional Res at S/4 and S/8 (0)"
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
        large = grow(small, tuple(options.widths), options.more_blocks)
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


if __name__ == "__main__":
    main()
