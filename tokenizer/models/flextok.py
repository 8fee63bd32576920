"""A tokenizer after FlexTok (Bachmann et al. 2025, arXiv 2502.13967): ordered registers, and a flow that draws the image from them.

Patches of the image and registers pass a transformer; each register becomes one token by finite scalar quantisation. A second
transformer, given the tokens, takes noise to the image along straight paths (rectified flow: Liu et al. 2022, arXiv 2209.03003).
The paper works on latents of a frozen VAE and aligns features with a pretrained network; the demo size works on pixels and has neither.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from tokenizer.models import fsq
from tokenizer.models.base import ImageLoss, ImageSize, Tokenizer
from tokenizer.models.transformer import Layer, TimedLayer, TimeEmbedding, norm


class FlexShape(BaseModel):
    """Sizes of both transformers, and how an image is drawn.

    width: a multiple of 64, the width of a head. registers: C. planes: numbers of a pixel, 3, or a VAE's channels.
    steps: Euler steps from noise to image. guidance: how far to go from what no token tells towards what the tokens tell
    (Ho, Salimans 2022, arXiv 2207.12598): 1 is the tokens alone, anything else doubles the work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
    kind: Literal["flextok"] = "flextok"
    image_size: ImageSize = 128
    planes: int = 3
    patch: int = 16
    registers: int = 64
    width: int = Field(default=192, multiple_of=64)
    encoder_depth: int = 4
    decoder_depth: int = 4
    steps: int = Field(default=2, ge=1)
    guidance: float = 1.0

    @property
    def channels(self) -> int:
        """C: tokens of an image."""
        return self.registers

    @property
    def decoder_stride(self) -> int:
        """Side in pixels of the blocks that the decoder's last layer writes."""
        return self.patch

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch) ** 2

    def build(self) -> "FlexTok":
        """A tokenizer of this shape with fresh weights."""
        return FlexTok(self)


# The paper's d12-d12 without its VAE, whose latents are its pixels: 32 x 32 of 16 numbers for an image of 256.
D12 = FlexShape(
    image_size=32,
    planes=16,
    patch=2,
    registers=256,
    width=768,
    encoder_depth=12,
    decoder_depth=12,
    steps=25,
)


class Patchify(nn.Module):
    """Pixels float [B, planes, S, S] to float [B, patches, d], a linear map of each patch and a learned position."""

    def __init__(self, shape: FlexShape, positions: Tensor) -> None:
        """positions: float [patches, d] to begin with."""
        super().__init__()
        self.patch = shape.patch
        self.project = nn.Linear(shape.planes * shape.patch**2, shape.width)
        self.position = nn.Parameter(positions)

    def forward(self, pixels: Tensor) -> Tensor:
        return (
            self.project(F.pixel_unshuffle(pixels, self.patch).flatten(2).transpose(1, 2))
            + self.position
        )


class Encoder(nn.Module):
    """Pixels float [B, planes, S, S] to what is to be quantised, float [B, C, 6]."""

    def __init__(self, shape: FlexShape, patches: Tensor, registers: Tensor) -> None:
        """patches, registers: their positions, see FlexTok."""
        super().__init__()
        self.patchify = Patchify(
            shape, 0.3 * patches
        )  # as large as what the projection makes of a photo's patch
        self.registers = nn.Parameter(0.3 * registers)
        self.layers = nn.ModuleList(Layer(shape.width) for _ in range(shape.encoder_depth))
        self.head = nn.Linear(shape.width, len(fsq.LEVELS))

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.cat(
            [self.patchify(pixels), self.registers.expand(pixels.shape[0], -1, -1)], dim=1
        )
        for layer in self.layers:
            x = layer(x)
        return self.head(norm(x[:, -len(self.registers) :]))


class Decoder(nn.Module):
    """Noisy pixels, their times and codes to the image that is expected behind the noise.

    The network tells the image and not the velocity, which follows from it: the noise of a patch has as many numbers as the model is wide
    and would take all of it (Li, He 2025, arXiv 2511.13720).
    """

    def __init__(self, shape: FlexShape, patches: Tensor, registers: Tensor) -> None:
        """patches, registers: their positions, see FlexTok."""
        super().__init__()
        self.side = shape.image_size // shape.patch
        self.patchify = Patchify(shape, 0.7 * patches)
        with torch.no_grad():
            self.patchify.project.weight *= 0.1  # or noise would drown positions and tokens, and the tokens would stay without a use
        self.time = TimeEmbedding(shape.width)
        self.codes = nn.Linear(len(fsq.LEVELS), shape.width)
        self.position = nn.Parameter(0.35 * registers)  # as large as what becomes of a code
        self.mask = nn.Parameter(0.02 * torch.randn(shape.width))
        self.layers = nn.ModuleList(
            TimedLayer(shape.width, shape.patches) for _ in range(shape.decoder_depth)
        )
        self.out = nn.Linear(shape.width, shape.planes * shape.patch**2)
        nn.init.zeros_(self.out.weight)

    def forward(self, noisy: Tensor, times: Tensor, codes: Tensor, present: Tensor) -> Tensor:
        """noisy: float [B, planes, S, S]. times: float [B] or [1]. codes: float [B, k, 6]. present: bool [B, k], k from 0 to C.

        An absent register is the mask token. That token has no position, so absent registers stay equal in every layer, and the C - k that
        `codes` leaves out are one token whose attention counts C - k times: log(C - k) is added to its score. This is exact, and the
        sequence is shorter by them.
        """
        k, registers = codes.shape[1], len(self.position)
        known = torch.where(present.unsqueeze(2), self.codes(codes) + self.position[:k], self.mask)
        x, bias = torch.cat([self.patchify(noisy), known], dim=1), None
        if k < registers:
            x = torch.cat([x, self.mask.expand(x.shape[0], 1, -1)], dim=1)
            bias = F.pad(x.new_full((1,), math.log(registers - k)), (x.shape[1] - 1, 0)).reshape(
                1, 1, 1, -1
            )
        time = self.time(times)
        for layer in self.layers:
            x = layer(x, time, bias)
        patches = self.out(norm(x[:, : self.side**2]))
        return F.pixel_shuffle(
            patches.transpose(1, 2).unflatten(2, (self.side, self.side)), self.patchify.patch
        )


class FlexTok(Tokenizer):
    """Encoder, finite scalar quantisation (no parameters), flow decoder.

    Attention begins local (mimetic initialisation: Trockman, Kolter 2023, arXiv 2305.09828): the position of each register is that of one
    patch, all others are nearly orthogonal to it, and queries begin with the weights of the keys. So a register begins as a token of its
    patch, in the encoder and in the decoder, and need not find its way first. Without, 6,000 photo views taught the mean colour alone.
    """

    family = "flextok"
    title = "FlexTok"
    usage_name = "level_use"
    vocab_size = fsq.VOCAB_SIZE

    NO_TOKENS = (
        0.1  # chance that training shows the decoder no token at all: what guidance compares with
    )
    # Times are sigmoids of normal numbers (Esser et al. 2024, arXiv 2403.03206) about this one: rather noise, for at the time 0.7 the noise
    # of a patch still shows its colour, and no token is needed. Some are 1, where tokens are all there is, and where decoding begins.
    TIME_MEAN = 2.0
    ALL_NOISE = 0.5
    LEAST_TIME = 0.05  # the velocity is the difference to the image over the time: below this the time counts as this

    shape: FlexShape
    encoder: Encoder
    decoder: Decoder
    noise: Tensor  # float [1, planes, S, S]
    table: Tensor  # float [64000, 6]

    def __init__(self, shape: FlexShape) -> None:
        super().__init__()
        self.shape = shape
        patches = torch.randn(shape.patches, shape.width)
        registers = patches[
            torch.randperm(shape.patches).repeat(-(-shape.registers // shape.patches))[
                : shape.registers
            ]
        ]
        self.encoder, self.decoder = (
            Encoder(shape, patches, registers),
            Decoder(shape, patches, registers),
        )
        # The same for all images, so that the same tokens give the same image; in the checkpoint, so that they do everywhere.
        generator = torch.Generator().manual_seed(0)
        side = shape.image_size
        self.register_buffer(
            "noise",
            torch.randn(1, shape.planes, side, side, generator=generator, device="cpu")
            .half()
            .float(),
        )
        self.register_buffer("table", fsq.code_table(), persistent=False)

    def encode(self, pixels: Tensor) -> Tensor:
        return fsq.tokens_from_latents(self.encoder(pixels))

    def decode_prefix(self, tokens: Tensor) -> Tensor:
        present = tokens >= 0
        codes = F.embedding(tokens.clamp(min=0), self.table)
        x = self.noise.expand(tokens.shape[0], -1, -1, -1)
        times = euler_times(self.shape.steps)
        for time, following in pairwise(times):
            image = self.expected(x, torch.full((1,), time, device=x.device), codes, present)
            x = image + (x - image) * (following / time)  # x - dt * velocity, of (x - image) / time
        return x

    def expected(self, noisy: Tensor, times: Tensor, codes: Tensor, present: Tensor) -> Tensor:
        """The image that the decoder expects, with guidance. Arguments as Decoder.forward's."""
        image = self.decoder(noisy, times, codes, present)
        if self.shape.guidance == 1:
            return image
        blind = self.decoder(noisy, times, codes[:, :0], present[:, :0])
        return blind + self.shape.guidance * (image - blind)

    def forward(self, pixels: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
        """As Tokenizer's; second come the times float [B, 1, 1, 1] of the noise under which each image was to be found.

        Registers past the budget (nested dropout) are the mask token.
        """
        batch = len(pixels)
        budgets = torch.where(torch.rand(batch, device=pixels.device) < self.NO_TOKENS, 0, budgets)
        codes = fsq.quantise(self.encoder(pixels))
        present = torch.arange(self.shape.registers, device=pixels.device) < budgets[:, None]
        times = torch.sigmoid(torch.randn(batch, 1, 1, 1, device=pixels.device) + self.TIME_MEAN)
        times = torch.where(torch.rand_like(times) < self.ALL_NOISE, 1.0, times)
        noisy = pixels + times * (torch.randn_like(pixels) - pixels)
        return self.decoder(noisy, times.flatten(), codes, present), times

    def loss(
        self, losses: ImageLoss, pixels: Tensor, outputs: tuple[Tensor, ...], samples_seen: int
    ) -> Tensor:
        """Mean squared error of the velocity, noise - image. A flow ignores the recipe's image losses."""
        image, times = outputs
        return ((image.float() - pixels) / times.clamp(min=self.LEAST_TIME)).square().mean()

    def usage(self, tokens: Tensor) -> float:
        """Use of levels: how many are in even use (e to the entropy), as a share of those there are; mean over the six numbers."""
        shares = []
        for levels, digits in zip(
            fsq.LEVELS, fsq.digits_from_tokens(tokens).flatten(0, 1).unbind(1), strict=True
        ):
            p = digits.bincount(minlength=levels).double() / len(digits)
            shares.append(float(torch.special.entr(p).sum().exp()) / levels)
        return sum(shares) / len(shares)

    def inner_weights(self) -> list[Tensor]:
        """All of attention and SwiGLU."""
        layers = [*self.encoder.layers, *self.decoder.layers]
        return [
            weight
            for layer in layers
            for name, weight in layer.named_parameters()
            if not name.startswith("modulation")
        ]


def euler_times(steps: int) -> list[float]:
    """From 1, all noise, to 0: steps + 1 times, spaced as training draws them, which is densely near 1."""
    shift = math.exp(FlexTok.TIME_MEAN)
    return [shift * step / (steps + (shift - 1) * step) for step in range(steps, -1, -1)]
