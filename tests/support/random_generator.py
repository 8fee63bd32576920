"""A small GPT generator with random weights."""

from pathlib import Path

import torch

from generator import checkpoint
from generator.checkpoint import Generator
from generator.gpt import GptShape
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer.models.channeltok import ChannelTok, ShuffleShape

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


def write_with_tokenizer(folder: Path) -> tuple[str, str]:
    """Write a random generator and a random tokenizer of its tokens; returns both paths."""
    torch.manual_seed(0)
    generator, tokenizer = folder / "generator.safetensors", folder / "tokenizer.safetensors"
    shape = ShuffleShape(channels=32, widths=(32, 32, 32, 32))
    tokenizer_checkpoint.save(ChannelTok(shape), tokenizer)
    made = tokenizer_checkpoint.fingerprint(tokenizer_checkpoint.load(tokenizer))
    checkpoint.save(Generator(random_generator().model, made, CLASSES), generator)
    return str(generator), str(tokenizer)
