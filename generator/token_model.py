"""Base class of all generators (TokenModel), and their loss weights and metric."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class TokenModel(nn.Module, ABC):
    """Autoregressive model of an image's tokens, conditioned on a class."""

    @abstractmethod
    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """-ln p of each token given the class and previous tokens: float [B, C], in nats.

        tokens: int [B, C], C up to that of the tokenizer. classes: int [B], -1 = none.
        """

    @abstractmethod
    def inner_weights(self) -> list[Tensor]:
        """The matrices of the layers, which Muon may train."""


def channel_weights(channels: int, slope: float) -> Tensor:
    """Loss weight of each channel c, as in the paper: float [C], 1 + slope (1 - c / (C - 1))."""
    return 1 + slope * (1 - torch.arange(channels) / max(1, channels - 1))


def bits_per_token(nll: Tensor) -> float:
    """Mean negative log-likelihood in bits. nll: float [N, C] in nats."""
    return float(nll.mean()) / math.log(2)
