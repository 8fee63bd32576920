"""ChannelTok tokenizer: one latent channel is one token, quantised to 16 bits.

Source: Paul, Bansal, Goldstein 2026, arXiv 2606.04461. An image [3, S, S] in [-1, 1] becomes
latents [C, 4, 4]; BSQ quantises each channel; any prefix of k channels decodes. Two backbones: the
paper's (256 px, five sizes) and a CPU variant of ours (`ShuffleShape`, 128 px, not in the paper).
"""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator
from torch import Tensor, nn

from tokenizer.models.base import ImageLoss, ImageSize, Tokenizer, convolution_weights
from tokenizer.models.blocks import Down, Norm, Up, level, middle
from tokenizer.models.bsq import (
    BITS,
    CODE,
    codes_from_tokens,
    factorised_entropy,
    live_bits,
    quantise,
    tokens_from_latents,
)

LATENT_SIDE = 4


class PaperShape(BaseModel):
    """The paper's convolutional backbone for 256 px images.

    widths: of the stem, then one per level. The encoder halves the image between levels, then down
    to 4x4; the decoder mirrors it. level_attention: attention at 32x32 in the encoder and at 16x16
    and 32x32 in the decoder (full size); otherwise in the bottleneck only (small sizes).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
    kind: Literal["paper"] = "paper"
    image_size: ImageSize = 256
    channels: int = 512
    encoder_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    level_attention: bool = False

    @property
    def decoder_stride(self) -> int:
        return 2

    def build(self) -> "ChannelTok":
        return ChannelTok(self)


Widths = tuple[int, int, int, int]
Blocks = tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt]


class NarrowDecoder(BaseModel):
    """A further decoder, for the first `budget` channels alone: less to draw needs less work.

    widths: as ShuffleShape.widths; with those of the whole decoder it starts as that one without
    the blocks left out. blocks: as ShuffleShape.decoder_blocks; None: as many as the whole decoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    budget: int = Field(ge=1)
    widths: Widths
    blocks: Blocks | None = Field(default=None, exclude_if=lambda blocks: blocks is None)


class ShuffleShape(BaseModel):
    """A CPU variant of ours, not in the paper: 4-pixel space-to-depth at both ends.

    Full-size convolutions with few channels are memory-bound on a CPU; the same work at a quarter
    of the side runs at matrix speed. docs/decisions/0003 has the measured alternatives.
    widths: at the sides S/4, S/8, S/16, S/32; the last two levels have attention.
    more_blocks: additional Res at S/4 and at S/8, in encoder and decoder alike.
    decoder_blocks: Res of the decoder at each of these sides instead of 1, 2, 2, 2 and more_blocks.
    full_size_channels: feature maps at full size that a last 3x3 convolution turns into pixels, so
    that patches overlap. 0: the last convolution writes separate patches, and any loss that rewards
    texture then draws a grid.
    budget_hint: add a learned vector for each present channel at the decoder's input, besides the
    codes of 0 for absent ones.
    narrow_decoders: ascending by budget. Prefixes that fit into one of them are decoded by the
    first that they fit into.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
    kind: Literal["shuffle"] = "shuffle"
    image_size: ImageSize = 128
    channels: int = 256
    patch: int = 4
    widths: Widths = (64, 96, 192, 256)
    # Not serialised at their defaults: fingerprints of older shapes must not change.
    more_blocks: int = Field(default=0, ge=0, exclude_if=lambda blocks: blocks == 0)
    decoder_blocks: Blocks | None = Field(default=None, exclude_if=lambda blocks: blocks is None)
    full_size_channels: int = Field(default=0, ge=0, exclude_if=lambda channels: channels == 0)
    budget_hint: bool = Field(default=False, exclude_if=lambda hint: not hint)
    narrow_decoders: tuple[NarrowDecoder, ...] = Field(
        default=(), exclude_if=lambda decoders: not decoders
    )

    @model_validator(mode="after")
    def _budgets_ascend(self) -> Self:
        budgets = [decoder.budget for decoder in self.narrow_decoders]
        if budgets != sorted({*budgets}) or (budgets and budgets[-1] >= self.channels):
            raise ValueError(
                f"narrow_decoders have ascending budgets below the {self.channels} channels, "
                f"not {budgets}"
            )
        return self

    @property
    def decoder_stride(self) -> int:
        return self.patch

    def narrow(self, decoder: NarrowDecoder) -> "ShuffleShape":
        """The shape of a narrow decoder: of its widths, and of as many channels as it reads."""
        return self.model_copy(
            update={
                "channels": decoder.budget,
                "widths": decoder.widths,
                "decoder_blocks": decoder.blocks or self.decoder_blocks,
                "narrow_decoders": (),
            }
        )

    def build(self) -> "ChannelTok":
        return ChannelTok(self)


def _paper(widths: tuple[int, ...]) -> PaperShape:
    return PaperShape(channels=256, encoder_widths=widths, decoder_widths=widths[::-1])


SIZES: dict[str, PaperShape | ShuffleShape] = {
    "full": PaperShape(
        channels=512,
        encoder_widths=(192, 256, 384, 512, 640),
        decoder_widths=(640, 512, 384, 256, 192),
        level_attention=True,
    ),
    "tiny": _paper((32, 32, 32, 64, 128)),
    "small": _paper((32, 32, 64, 128, 256)),
    "medium": _paper((32, 128, 256, 256, 256)),
    "large": PaperShape(
        channels=256,
        encoder_widths=(128, 128, 128, 256, 256, 512),
        decoder_widths=(512, 256, 256, 128, 128),
    ),
    "demo": ShuffleShape(widths=(64, 128, 192, 256), full_size_channels=8, budget_hint=True),
}


def paper_encoder(shape: PaperShape) -> nn.Sequential:
    """Encoder: float [B, 3, S, S] to latents float [B, C, 4, 4], >= -0.279 after the last SiLU."""
    width, *widths = shape.encoder_widths
    side = shape.image_size
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for next_width in widths[:-1]:
        layers += [*level(width, next_width, 2), Down(next_width, next_width), nn.SiLU()]
        width, side = next_width, side // 2
    layers += level(width, widths[-1], 2, attention=shape.level_attention)
    width = widths[-1]
    layers += [
        *middle(width),
        Norm(width),
        nn.SiLU(),
        nn.Conv2d(width, shape.channels, 3, padding=1),
    ]
    for _ in range(int(math.log2(side // LATENT_SIDE))):
        layers += [Down(shape.channels, shape.channels), nn.SiLU()]
    return nn.Sequential(*layers)


def paper_decoder(shape: PaperShape) -> nn.Sequential:
    """Decoder: codes float [B, C, 4, 4] to pixels float [B, 3, S, S] in [-1, 1]."""
    widths = shape.decoder_widths
    width, side = widths[0], shape.image_size >> (len(widths) - 1)
    layers: list[nn.Module] = [nn.Conv2d(shape.channels, width, 3, padding=1), *middle(width)]
    for _ in range(int(math.log2(side // LATENT_SIDE))):
        layers += [Up(width, width), nn.SiLU()]
    for i, next_width in enumerate(widths):
        if i > 0:
            layers += [Up(width, width), nn.SiLU()]
        layers += level(width, next_width, 3, attention=shape.level_attention and side << i <= 32)
        width = next_width
    layers += [Norm(width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)


def shuffle_encoder(shape: ShuffleShape) -> nn.Sequential:
    """Encoder: float [B, 3, S, S] to latents float [B, C, 4, 4], unbounded.

    A last SiLU, as in the paper, slowed learning.
    """
    a, b, c, d = shape.widths
    return nn.Sequential(
        nn.PixelUnshuffle(shape.patch),
        nn.Conv2d(3 * shape.patch**2, a, 3, padding=1),
        *level(a, a, shape.more_blocks, zero_init=True),
        Down(a, b),
        *level(b, b, 2 + shape.more_blocks, zero_init=True),
        Down(b, c),
        *middle(c, zero_init=True),
        Down(c, d),
        *middle(d, zero_init=True),
        Norm(d),
        nn.SiLU(),
        nn.Conv2d(d, shape.channels, 3, padding=1),
    )


def _widen(width_in: int, width_out: int) -> list[nn.Module]:
    # The 1x1 before upsampling does a 36th of the work of the paper's conv3 after it; the Res that
    # follows smooths the blocks.
    return [nn.Conv2d(width_in, width_out, 1), nn.Upsample(scale_factor=2.0, mode="nearest")]


class ShuffleDecoder(nn.Sequential):
    """Decoder: codes float [B, C, 4, 4] to pixels float [B, 3, S, S], about [-1, 1], unclipped."""

    CODE_SCALE = 4.0  # codes of +-0.25 enter as +-1: unscaled, the first layers learned slowly

    def __init__(self, shape: ShuffleShape) -> None:
        a, b, c, d = shape.widths
        more, full = shape.more_blocks, shape.full_size_channels
        blocks_a, blocks_b, blocks_c, blocks_d = shape.decoder_blocks or (1 + more, 2 + more, 2, 2)
        super().__init__(
            nn.Conv2d(shape.channels, d, 3, padding=1),
            *middle(d, blocks_d, zero_init=True),
            *_widen(d, c),
            *middle(c, blocks_c, zero_init=True),
            *_widen(c, b),
            *level(b, b, blocks_b, zero_init=True),
            *_widen(b, a),
            *level(a, a, blocks_a, zero_init=True),
            Norm(a),
            nn.SiLU(),
            nn.Conv2d(a, (full or 3) * shape.patch**2, 3, padding=1),
            nn.PixelShuffle(shape.patch),
            *([nn.Conv2d(full, 3, 3, padding=1)] if full else []),
        )
        # One row per channel, summed over the present channels.
        self.hint = nn.Parameter(torch.zeros(shape.channels, d)) if shape.budget_hint else None

    def forward(self, codes: Tensor) -> Tensor:
        first, *others = self
        x = first(codes * self.CODE_SCALE)
        if self.hint is not None:
            present = (codes[:, :, 0, 0] != 0).to(self.hint.dtype)  # a code is never 0
            x = x + (present @ self.hint).to(x.dtype)[:, :, None, None]
        for layer in others:
            x = layer(x)
        return x

    @torch.no_grad()
    def start_from(self, whole: "ShuffleDecoder") -> None:
        """Copy the layers of a decoder of the same widths, with no fewer channels and blocks."""
        remaining = iter(whole)
        for layer in self:
            source = next(other for other in remaining if type(other) is type(layer))
            weights = source.state_dict()
            if isinstance(layer, nn.Conv2d):  # the first one reads fewer channels
                weights["weight"] = weights["weight"][:, : layer.in_channels]
            layer.load_state_dict(weights)
        if self.hint is not None and whole.hint is not None:
            self.hint.copy_(whole.hint[: len(self.hint)])


class ChannelTok(Tokenizer):
    """Encoder, quantiser (no parameters), decoder, and narrow decoders by their budgets."""

    family = "channeltok"
    title = "ChannelTok"
    usage_name = "live_bits"
    vocab_size = 2**BITS
    bits_per_flip = 1  # each bit is the sign of its own latent
    shape: PaperShape | ShuffleShape

    def __init__(self, shape: PaperShape | ShuffleShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder: nn.Module
        self.decoder: nn.Module
        self.narrow_decoders = nn.ModuleDict()
        if isinstance(shape, PaperShape):
            self.encoder, self.decoder = paper_encoder(shape), paper_decoder(shape)
        else:
            self.encoder, self.decoder = shuffle_encoder(shape), ShuffleDecoder(shape)
            for narrow in shape.narrow_decoders:
                self.narrow_decoders[str(narrow.budget)] = ShuffleDecoder(shape.narrow(narrow))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels float [B, 3, S, S] in [-1, 1] to token ids int32 [B, C] in [0, 65535]."""
        return tokens_from_latents(self.encoder(pixels))

    @property
    def narrow_budgets(self) -> tuple[int, ...]:
        return tuple(map(int, self.narrow_decoders))

    @property
    def decoders(self) -> tuple[nn.Module, ...]:
        return (self.decoder, *self.narrow_decoders.values())

    def with_narrow_decoders(self, narrow: tuple[NarrowDecoder, ...]) -> "ChannelTok":
        """A copy with new narrow decoders in place of the old ones; `forward` trains them alone.

        Raises ValueError for the paper's backbone, and for budgets that ShuffleShape refuses.
        """
        if not isinstance(self.shape, ShuffleShape):
            raise ValueError("only tokenizers of the demo's kind (ShuffleShape) have them")
        shape = self.shape.model_dump() | {"narrow_decoders": narrow}
        copy = ChannelTok(ShuffleShape.model_validate(shape))
        copy.encoder.load_state_dict(self.encoder.state_dict())
        copy.decoder.load_state_dict(self.decoder.state_dict())
        for settings, decoder in zip(narrow, copy.narrow_decoders.values(), strict=True):
            if settings.widths == self.shape.widths:
                assert isinstance(decoder, ShuffleDecoder)
                assert isinstance(copy.decoder, ShuffleDecoder)
                decoder.start_from(copy.decoder)
        return copy

    def decode_prefix(self, tokens: Tensor) -> Tensor:
        return self.decode_codes(codes_from_tokens(tokens))

    def codes(self, pixels: Tensor) -> Tensor:
        return quantise(self.encoder(pixels)).codes

    def decode_codes(self, codes: Tensor) -> Tensor:
        k = codes.shape[1]
        decoder, budget = self.decoder, self.shape.channels
        for narrow in self.narrow_budgets:
            if k <= narrow:
                decoder, budget = self.narrow_decoders[str(narrow)], narrow
                break
        return decoder(F.pad(codes, (0, 0, 0, 0, 0, budget - k)))

    def forward(self, pixels: Tensor, budgets: Tensor) -> tuple[Tensor, ...]:
        """Training forward pass: of the narrow decoders alone where there are any, else of all.

        pixels: float [B, 3, S, S] in [-1, 1]. budgets: int [B] in [1, C], see `draw_budgets`.
        Returns (reconstruction [B, 3, S, S], unit latents [B, C, 4, 4], active bool [B, C]).
        Channels past the budget get no gradient and are 0 at the decoder. With narrow decoders:
        a reconstruction of each, at the same share of the budgets that go to it.
        """
        if self.narrow_decoders:
            return self._forward_narrow(pixels, budgets)
        latents = self.encoder(pixels)
        active = torch.arange(latents.shape[1], device=latents.device) < budgets[:, None]
        keep = active[:, :, None, None]
        quantised = quantise(torch.where(keep, latents, latents.detach()))
        return self.decoder(quantised.codes * keep), quantised.unit, active

    def _forward_narrow(self, pixels: Tensor, budgets: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            codes = quantise(self.encoder(pixels)).codes
        reconstructions = []
        least = 0  # as many channels or fewer go to a narrower decoder
        for budget, decoder in zip(self.narrow_budgets, self.narrow_decoders.values(), strict=True):
            own = least + (budgets * (budget - least) / self.shape.channels).ceil()
            keep = torch.arange(budget, device=codes.device) < own[:, None]
            reconstructions.append(decoder(codes[:, :budget] * keep[:, :, None, None]))
            least = budget
        return tuple(reconstructions)

    def loss(
        self, losses: ImageLoss, pixels: Tensor, outputs: tuple[Tensor, ...], samples_seen: int
    ) -> Tensor:
        """Image loss, plus BSQ's entropy and commitment terms over the active channels.

        With narrow decoders: the mean of their image losses.
        """
        if self.narrow_decoders:
            each = [losses.image_loss(pixels, image, samples_seen) for image in outputs]
            return torch.stack(each).mean()
        reconstruction, unit, active = outputs
        loss = losses.image_loss(pixels, reconstruction, samples_seen)
        if losses.entropy_weight:
            entropy = factorised_entropy(unit, active)
            loss = loss + losses.entropy_weight * (entropy.per_sample - entropy.batch)
        if losses.commitment_weight:
            latents = unit.float()[active]
            loss = loss + losses.commitment_weight * F.mse_loss(latents, latents.sign() * CODE)
        return loss

    def inner_weights(self) -> list[Tensor]:
        if not self.narrow_decoders:
            return super().inner_weights()
        return [
            weight
            for decoder in self.narrow_decoders.values()
            for weight in convolution_weights(decoder)[:-1]
        ]

    def usage(self, tokens: Tensor) -> float:
        """Live bits: share of the C x 16 bits that are 1 in 5 % to 95 % of images."""
        return live_bits(tokens)


def draw_budgets(
    batch: int,
    channels: int,
    full_length_probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Budgets int64 [batch] for tail-drop (the paper's Algorithm 1).

    All C with `full_length_probability`, otherwise floor(C t), t ~ U(0.002, 1).
    """
    t = torch.empty(batch).uniform_(0.002, 1, generator=generator)
    budgets = (channels * t).floor().clamp(1, channels).long()
    full_length = torch.rand(batch, generator=generator) < full_length_probability
    return torch.where(full_length, channels, budgets)
