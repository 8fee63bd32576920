"""Tokenizers with random weights, for measurements and tests that do not depend on the weights."""

import torch

from tokenizer.models.base import Tokenizer
from tokenizer.models.registry import SIZES, Shape


def random_model(size: str) -> Tokenizer:
    """A size of tokenizer.models.registry.SIZES with random weights; see `random_of`."""
    return random_of(SIZES[size])


def random_of(shape: Shape) -> Tokenizer:
    """A model with the same random weights on every call, rounded to fp16 as in a checkpoint.

    Parameters that training initialises to zero are random too: a zero would hide its factor.
    """
    torch.manual_seed(0)
    model: Tokenizer = shape.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model.half().float().eval()
