"""Convolutional layers of ChannelTok: Res, Attn, Down, Up. All map [B, C, H, W] to [B, C, H, W]."""

import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8


class Norm(nn.GroupNorm):
    """GroupNorm with 32 groups and eps 1e-6. `channels` must be a multiple of 32.

    Runs in float32 under autocast, as autocast does on a GPU; on a CPU autocast would keep
    bfloat16, which takes twice the time.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class Res(nn.Module):
    """Residual block: (Norm, SiLU, conv3) twice; the skip is a 1x1 convolution if widths differ.

    zero_init: the last convolution starts at zero, so the block starts as its skip. Short runs can
    then use high learning rates.
    """

    def __init__(self, width_in: int, width_out: int, *, zero_init: bool = False) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Norm(width_in),
            nn.SiLU(),
            nn.Conv2d(width_in, width_out, 3, padding=1),
            Norm(width_out),
            nn.SiLU(),
            last := nn.Conv2d(width_out, width_out, 3, padding=1),
        )
        self.skip = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)
        if zero_init:
            _start_at_zero(last)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.block(x)


def _start_at_zero(layer: nn.Conv2d) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Attn(nn.Module):
    """Residual self-attention over positions: 8 heads, no MLP, no position embedding."""

    def __init__(self, width: int, *, zero_init: bool = False) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, width, 1)
        if zero_init:
            _start_at_zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (_split_heads(project(h)) for project in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)  # [B, heads, H*W, width/heads]
        return x + self.out(attended.transpose(2, 3).reshape(x.shape))


def _split_heads(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], HEADS, x.shape[1] // HEADS, x.shape[2] * x.shape[3]).transpose(
        2, 3
    )


class Down(nn.Module):
    """Halves height and width: pads a row below, a column to the right; conv3 with stride 2."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Doubles height and width: nearest-neighbour upsampling, then conv3."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def level(
    width_in: int, width: int, count: int, *, attention: bool = False, zero_init: bool = False
) -> list[nn.Module]:
    """`count` Res, the first from `width_in` to `width`, optionally with an Attn after each."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers.append(Res(width_in if i == 0 else width, width, zero_init=zero_init))
        if attention:
            layers.append(Attn(width, zero_init=zero_init))
    return layers


def middle(width: int, count: int = 2, *, zero_init: bool = False) -> list[nn.Module]:
    """The bottleneck of an encoder or decoder: Res, Attn, Res. count: of Res, the first remain."""
    blocks = level(width, width, count, zero_init=zero_init)
    return [*blocks[:1], Attn(width, zero_init=zero_init), *blocks[1:]]


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars in `module`."""
    return sum(p.numel() for p in module.parameters())
