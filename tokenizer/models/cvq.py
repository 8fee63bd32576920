"""CVQ tokenizer: channel-wise vector quantisation with one learned codebook (arXiv 2605.26089).

A token is the codebook entry, a channel map of 4x4 numbers, nearest to a latent channel by
Frobenius norm. The backbone is ChannelTok's CPU variant (`ShuffleShape`), not the paper's VQGAN, to
compare the two quantisers at equal cost.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from tokenizer.models.base import ImageLoss, Tokenizer, VocabSize
from tokenizer.models.channeltok import LATENT_SIDE, ShuffleDecoder, ShuffleShape, shuffle_encoder

MAP = LATENT_SIDE**2  # numbers of a channel map
# Latents per distance matrix in training: it fits the cache, unlike that of a whole batch.
ROWS_AT_ONCE = 256


class CvqShape(BaseModel):
    """vocab_size: entries of the codebook; ids must fit 16 bits."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
    kind: Literal["cvq"] = "cvq"
    backbone: ShuffleShape = ShuffleShape()
    vocab_size: VocabSize = Field(default=4_096, ge=2, le=2**16)

    @property
    def image_size(self) -> int:
        return self.backbone.image_size

    @property
    def channels(self) -> int:
        return self.backbone.channels

    @property
    def decoder_stride(self) -> int:
        return self.backbone.decoder_stride

    def build(self) -> "Cvq":
        return Cvq(self)


class Codebook(nn.Module):
    """Channel maps trained by online k-means: moving averages and random restarts, no gradients.

    Moving averages: van den Oord et al. 2017 (VQ-VAE, arXiv 1711.00937, appendix A.1). Restarts:
    Dhariwal et al. 2020 (Jukebox, arXiv 2005.00341, section 3): an entry whose moving average of
    uses falls below a threshold becomes a random latent of the batch. `uses` starts at 0, so the
    first batch initialises the whole codebook.
    """

    DECAY = 0.99
    # Uses per step; a batch of 64 photos uses each of 4,096 entries 3 times on average.
    RESTART_BELOW = 0.1
    entries: Tensor  # float [N, 16]
    uses: Tensor  # float [N]

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("entries", torch.randn(size, MAP))
        self.register_buffer("uses", torch.zeros(size))

    def nearest(self, maps: Tensor) -> Tensor:
        """Maps float [..., 16] to the ids int64 [...] of the nearest entries.

        Ranks by |x - e|^2 - |x|^2 as one matrix product, [x, 1] with [-2e, |e|^2].
        """
        table = torch.cat([-2 * self.entries, self.entries.square().sum(1, keepdim=True)], dim=1)
        return (torch.cat([maps, torch.ones_like(maps[..., :1])], dim=-1) @ table.T).argmin(dim=-1)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids int [...], negative = absent, to maps float [..., 16]: 0 where absent."""
        table = torch.cat([self.entries, torch.zeros_like(self.entries[:1])])
        return F.embedding(torch.where(ids < 0, len(self.entries), ids), table)

    @torch.no_grad()
    def update(self, maps: Tensor, ids: Tensor) -> None:
        """Move each entry towards the mean of its maps, then restart unused entries.

        maps: float [M, 16]. ids: int64 [M], the nearest entry of each.
        """
        counts = torch.zeros_like(self.uses).index_add_(0, ids, torch.ones_like(maps[:, 0]))
        sums = torch.zeros_like(self.entries).index_add_(0, ids, maps)
        self.uses.lerp_(counts, 1 - self.DECAY)
        # Moving average of sums over that of counts, as a step: the sums need no buffer.
        step = (sums - counts[:, None] * self.entries) / self.uses.clamp(min=1e-6)[:, None]
        self.entries.add_(step, alpha=1 - self.DECAY)
        dead = (self.uses < self.RESTART_BELOW).nonzero().flatten()
        if len(dead):
            self.entries[dead] = maps[torch.randint(len(maps), (len(dead),), device=maps.device)]
            self.uses[dead] = len(maps) / len(self.uses)


class Cvq(Tokenizer):
    """Encoder, codebook, decoder."""

    family = "cvq"
    title = "CVQ"
    usage_name = "utilisation"
    shape: CvqShape
    codebook: Codebook

    def __init__(self, shape: CvqShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = shuffle_encoder(shape.backbone)
        self.codebook = Codebook(shape.vocab_size)
        self.decoder = ShuffleDecoder(shape.backbone)

    @property
    def vocab_size(self) -> int:
        return len(self.codebook.entries)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.codebook.nearest(self.encoder(pixels).flatten(2)).to(torch.int32)

    def decode_prefix(self, tokens: Tensor) -> Tensor:
        return self.decode_codes(self.codebook(tokens))

    def codes(self, pixels: Tensor) -> Tensor:
        maps = self.encoder(pixels).flatten(2)
        return maps + (self.codebook(self.codebook.nearest(maps)) - maps).detach()

    def decode_codes(self, codes: Tensor) -> Tensor:
        missing = self.shape.channels - codes.shape[1]
        return self.decoder(
            F.pad(codes, (0, 0, 0, missing)).unflatten(2, (LATENT_SIDE, LATENT_SIDE))
        )

    def forward(self, pixels: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
        """See Tokenizer.forward. Returns the reconstruction and the commitment loss.

        The latter is a scalar, the mean squared distance of latents to their entries. Channels past
        the budget (nested channel dropout) are 0 at the decoder and get no gradient.
        """
        latents = self.encoder(pixels)
        active = torch.arange(latents.shape[1], device=latents.device) < budgets[:, None]
        with torch.autocast(latents.device.type, enabled=False):
            maps = latents.flatten(2).float()[active]  # [tokens, 16]
            with torch.no_grad():
                ids = torch.cat(
                    [self.codebook.nearest(rows) for rows in maps.detach().split(ROWS_AT_ONCE)]
                )
            hard = self.codebook(ids)
            if self.training:
                self.codebook.update(maps.detach(), ids)
            codes = torch.zeros_like(latents.flatten(2), dtype=torch.float32)
            codes[active] = maps + (hard - maps).detach()  # straight through
            commitment = F.mse_loss(maps, hard)
        return self.decoder(codes.unflatten(2, (LATENT_SIDE, LATENT_SIDE))), commitment

    def loss(
        self, losses: ImageLoss, pixels: Tensor, outputs: tuple[Tensor, ...], samples_seen: int
    ) -> Tensor:
        reconstruction, commitment = outputs
        image_loss = losses.image_loss(pixels, reconstruction, samples_seen)
        return image_loss + losses.commitment_weight * commitment

    def usage(self, tokens: Tensor) -> float:
        """Utilisation: share of the codebook's entries that occur in tokens int32 [N, C]."""
        return len(tokens.unique()) / self.vocab_size
