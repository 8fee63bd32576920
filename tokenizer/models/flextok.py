"""FlexTok-style tokenizer: transformer encoder with ordered registers, rectified-flow decoder.

After Bachmann et al. 2025, arXiv 2502.13967. A transformer reads patches and registers; FSQ turns
each register into a token. A second transformer, conditioned on the tokens, moves noise to the
image along straight paths (rectified flow: Liu et al. 2022, arXiv 2209.03003). The paper works on
latents of a frozen VAE and aligns features with a pretrained network; the demo size does neither.
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
    """Sizes of both transformers, and sampling settings of the decoder.

    width: d, a multiple of 64, the head size. registers: C. planes: channels of a pixel (3) or of a
    VAE's latent. steps: Euler steps from noise to image. guidance: classifier-free guidance scale
    (Ho, Salimans 2022, arXiv 2207.12598); 1 is none, any other value doubles the work.
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
        return self.registers

    @property
    def decoder_stride(self) -> int:
        return self.patch

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch) ** 2

    def build(self) -> "FlexTok":
        return FlexTok(self)


# The paper's d12-d12, on the latents of its VAE: 32 x 32 x 16 for an image of 256 x 256.
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
    """Pixels float [B, planes, S, S] to patches float [B, patches, d] with learned positions."""

    def __init__(self, shape: FlexShape, positions: Tensor) -> None:
        """positions: initial values, float [patches, d]."""
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
    """Pixels float [B, planes, S, S] to latents for FSQ, float [B, C, 6]."""

    def __init__(self, shape: FlexShape, patches: Tensor, registers: Tensor) -> None:
        """patches, registers: initial positions, see FlexTok."""
        super().__init__()
        # 0.3: the scale of a photo's projected patches
        self.patchify = Patchify(shape, 0.3 * patches)
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
    """Predicts the clean image from noisy pixels, their times, and codes.

    It predicts the image, from which the velocity follows, and not the noise: the noise of a patch
    has as many numbers as the model is wide (Li, He 2025, arXiv 2511.13720).
    """

    def __init__(self, shape: FlexShape, patches: Tensor, registers: Tensor) -> None:
        """patches, registers: initial positions, see FlexTok."""
        super().__init__()
        self.side = shape.image_size // shape.patch
        self.patchify = Patchify(shape, 0.7 * patches)
        with torch.no_grad():
            # Otherwise noise drowns positions and tokens, and the decoder learns to ignore tokens.
            self.patchify.project.weight *= 0.1
        self.time = TimeEmbedding(shape.width)
        self.codes = nn.Linear(len(fsq.LEVELS), shape.width)
        self.position = nn.Parameter(0.35 * registers)  # 0.35: the scale of projected codes
        self.mask = nn.Parameter(0.02 * torch.randn(shape.width))
        self.layers = nn.ModuleList(
            TimedLayer(shape.width, shape.patches) for _ in range(shape.decoder_depth)
        )
        self.out = nn.Linear(shape.width, shape.planes * shape.patch**2)
        nn.init.zeros_(self.out.weight)

    def forward(self, noisy: Tensor, times: Tensor, codes: Tensor, present: Tensor) -> Tensor:
        """Expected image float [B, planes, S, S].

        noisy: float [B, planes, S, S]. times: float [B] or [1]. codes: float [B, k, 6].
        present: bool [B, k], k from 0 to C.

        An absent register is the mask token. It has no position, so absent registers stay equal in
        every layer. The C - k registers that `codes` leaves out are one token whose attention score
        is raised by log(C - k), which counts it C - k times. This is exact, on a shorter sequence.
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

    Attention starts local (mimetic initialisation: Trockman, Kolter 2023, arXiv 2305.09828): each
    register has the position of one patch, nearly orthogonal to all others, and queries start with
    the weights of keys. So a register starts as a token of its patch in encoder and decoder.
    Without this, 6,000 samples taught only the mean colour.
    """

    family = "flextok"
    title = "FlexTok"
    usage_name = "level_use"
    vocab_size = fsq.VOCAB_SIZE

    NO_TOKENS = 0.1  # probability of training without tokens, for guidance
    # Times are logit-normal (Esser et al. 2024, arXiv 2403.03206) with this mean: mostly noise,
    # because at time 0.7 a noisy patch still shows its colour, and no token is needed. Some are 1,
    # where decoding starts and only tokens carry information.
    TIME_MEAN = 2.0
    ALL_NOISE = 0.5
    MIN_TIME = 0.05  # lower bound of the divisor, time, in the velocity

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
        # The same noise for all images, and part of the checkpoint: equal tokens give equal images.
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
        return self._sample(F.embedding(tokens.clamp(min=0), self.table), tokens >= 0)

    def codes(self, pixels: Tensor) -> Tensor:
        return fsq.quantise(self.encoder(pixels))

    def decode_codes(self, codes: Tensor) -> Tensor:
        return self._sample(codes, torch.ones_like(codes[..., 0], dtype=torch.bool))

    def _sample(self, codes: Tensor, present: Tensor) -> Tensor:
        """From noise to the image float [B, planes, S, S]. Arguments: see Decoder.forward."""
        x = self.noise.expand(codes.shape[0], -1, -1, -1)
        times = euler_times(self.shape.steps)
        for time, following in pairwise(times):
            image = self.expected(x, torch.full((1,), time, device=x.device), codes, present)
            x = image + (x - image) * (following / time)  # velocity: (x - image) / time
        return x

    def expected(self, noisy: Tensor, times: Tensor, codes: Tensor, present: Tensor) -> Tensor:
        """The decoder's clean image, with guidance. Arguments: see Decoder.forward."""
        image = self.decoder(noisy, times, codes, present)
        if self.shape.guidance == 1:
            return image
        blind = self.decoder(noisy, times, codes[:, :0], present[:, :0])
        return blind + self.shape.guidance * (image - blind)

    def forward(self, pixels: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
        """See Tokenizer.forward. Returns predicted images and noise times float [B, 1, 1, 1].

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
        """Mean squared error of the velocity, noise - image; image losses do not suit a flow."""
        image, times = outputs
        return ((image.float() - pixels) / times.clamp(min=self.MIN_TIME)).square().mean()

    def usage(self, tokens: Tensor) -> float:
        """Level use: exp(entropy) of the levels over their number, mean over the six numbers."""
        shares = []
        for levels, digits in zip(
            fsq.LEVELS, fsq.digits_from_tokens(tokens).flatten(0, 1).unbind(1), strict=True
        ):
            p = digits.bincount(minlength=levels).double() / len(digits)
            shares.append(float(torch.special.entr(p).sum().exp()) / levels)
        return sum(shares) / len(shares)

    def inner_weights(self) -> list[Tensor]:
        """All matrices of attention and SwiGLU."""
        layers = [*self.encoder.layers, *self.decoder.layers]
        return [
            weight
            for layer in layers
            for name, weight in layer.named_parameters()
            if not name.startswith("modulation")
        ]


def euler_times(steps: int) -> list[float]:
    """The steps + 1 times of Euler steps from 1 (all noise) to 0, densest near 1 as in training."""
    shift = math.exp(FlexTok.TIME_MEAN)
    return [shift * step / (steps + (shift - 1) * step) for step in range(steps, -1, -1)]
