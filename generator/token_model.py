"""What is trained here, whatever it is made of."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class TokenModel(nn.Module, ABC):
    """Tells how unexpected each token of an image is, given a class and those before it."""

    @abstractmethod
    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """How unexpected each token is: float [B, C], -ln p of it given the class and those before it.

        tokens: int [B, C], 1 <= C <= the tokenizer's. classes: int [B], -1 = none.
        """

    @abstractmethod
    def inner_weights(self) -> list[Tensor]:
        """The matrices of the layers: what Muon may take."""


def channel_weights(channels: int, slope: float) -> Tensor:
    """float [C]: 1 + a (1 - c / (C - 1)), the paper's weight of channel c's cross-entropy; a = `slope`."""
    return 1 + slope * (1 - torch.arange(channels) / max(1, channels - 1))


def bits_per_token(nll: Tensor) -> float:
    """Mean of -ln p in bits, the common currency of ways to tell a token. nll: float [N, C]."""
    return float(nll.mean()) / math.log(2)
