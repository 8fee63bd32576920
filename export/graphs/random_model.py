"""A tokenizer nobody trained: what an engine costs does not depend on the weights."""

import torch

from tokenizer.models.base import Tokenizer
from tokenizer.models.registry import SIZES, Shape


def random_model(size: str) -> Tokenizer:
    """One of tokenizer.models.registry.SIZES, as `random_of` makes it."""
    return random_of(SIZES[size])


def random_of(shape: Shape) -> Tokenizer:
    """The same weights on every call, of fp16's precision as a checkpoint would store them, computing in fp32.

    What training starts at zero is random too, for a zero would hide what it is multiplied with.
    """
    torch.manual_seed(0)
    model: Tokenizer = shape.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model.half().float().eval()
