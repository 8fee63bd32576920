"""A small GPT generator with random weights."""

import torch

from generator.checkpoint import Generator
from generator.gpt import GptShape

CLASSES = ["ant", "bee", "cat"]


def random_generator(channels: int = 32, prediction: str = "bits", seed: int = 0) -> Generator:
    """A generator with random weights, rounded to fp16, the same on every call."""
    torch.manual_seed(seed)
    vocab_size = 2**16 if prediction == "bits" else 300
    shape = {
        "channels": channels,
        "vocab_size": vocab_size,
        "classes": 3,
        "width": 64,
        "layers": 2,
        "heads": 2,
        "ffn_dim": 96,
    }
    model = GptShape.model_validate({**shape, "prediction": prediction}).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2)
    return Generator(model.half().float().eval(), "0123456789abcdef", CLASSES)
