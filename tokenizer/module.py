"""TokenizerModule: a trained tokenizer as a part of other PyTorch models, with gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenizer import checkpoint, inference
from tokenizer.models.base import Tokenizer


class TokenizerModule(nn.Module):
    """Images float [B, 3, S, S] in [0, 1] to tokens and back; gradients reach images and weights.

    All weights are trainable: freeze them with `module.requires_grad_(False)`, which leaves the
    gradient to the images.

    Attributes:
        model: encoder, quantiser and decoder, as they were trained.
        fingerprint: 16 hex digits of these weights; it is not updated when they are trained.
    """

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.fingerprint = checkpoint.fingerprint(model)

    @property
    def max_tokens(self) -> int:
        """C: tokens of a whole image."""
        return self.model.shape.channels

    @property
    def image_size(self) -> int:
        """S: side of an image in pixels."""
        return self.model.shape.image_size

    def encode(self, images: Tensor) -> Tensor:
        """Images to token ids int32 [B, C], coarse to fine; without a gradient."""
        return self.model.encode(_to_unit(images))

    def decode(self, ids: Tensor) -> Tensor:
        """The first k ids, int [B, k], 1 <= k <= C, -1 where absent, to images in [0, 1]."""
        return _from_unit(self.model.decode_prefix(ids))

    def codes(self, images: Tensor) -> Tensor:
        """Images to the codes of their tokens, float [B, C, ...]; the rest depends on the family.

        The quantiser passes the gradient straight through, as in training.
        """
        return self.model.codes(_to_unit(images))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """The first k codes, float [B, k, ...], to images in about [0, 1], with a gradient."""
        return _from_unit(self.model.decode_codes(codes))

    def forward(self, images: Tensor, k: int | None = None) -> Tensor:
        """Images to those decoded from their first k tokens, float [B, 3, S, S].

        In about [0, 1]: they are not clamped, as that would stop gradients. k: None for all.
        """
        return self.decode_codes(self.codes(images)[:, :k])

    def facts(self, name: str) -> dict[str, str]:
        """What a graph's metadata would say of it (export/graphs/graph.py). name: in serving."""
        model = self.model
        return {
            "tokenizer": name,
            "family": model.family,
            "fingerprint": self.fingerprint,
            "channels": str(model.shape.channels),
            "bits_per_token": str(model.bits_per_token),
            "codes": str(model.vocab_size),
            "picture_size": str(model.shape.image_size),
        }

    def on_arrays(self, role: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """A function with the types of a graph. role: "encode" or "decode"."""

        def encode(images: NDArray[np.uint8]) -> NDArray[np.int32]:
            return inference.encode(self.model, images).numpy()

        def decode(ids: NDArray[np.int32]) -> NDArray[np.uint8]:
            return inference.decode(self.model, torch.from_numpy(ids), ids.shape[1])

        return encode if role == "encode" else decode


def load(path: Path) -> TokenizerModule:
    """The tokenizer of a checkpoint, in float32 and eval mode. Raises as tokenizer.checkpoint."""
    return TokenizerModule(checkpoint.load(path)).eval()


def _to_unit(images: Tensor) -> Tensor:
    return images * 2 - 1


def _from_unit(pixels: Tensor) -> Tensor:
    return (pixels + 1) / 2
