"""Save and load a GPT generator: a checkpoint with its tokenizer's fingerprint and class names."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from generator.gpt import Gpt, GptShape
from tokenizer import checkpoint
from tokenizer.checkpoint import fingerprint

__all__ = ["Generator", "fingerprint", "load", "save"]


@dataclass(frozen=True)
class Generator:
    """model: in fp32. tokenizer: fingerprint of its tokens' tokenizer. classes: names by id."""

    model: Gpt
    tokenizer: str
    classes: list[str]


def save(generator: Generator, path: Path, facts: dict[str, str] | None = None) -> None:
    """Write the weights as fp16, with shape, tokenizer, classes and further `facts` as metadata."""
    metadata = {
        "tokenizer": generator.tokenizer,
        "classes": json.dumps(generator.classes),
        **(facts or {}),
    }
    checkpoint.save(generator.model, path, metadata)


def load(path: Path) -> Generator:
    """Load a file of `save`, in eval mode.

    Raises ValueError when the file holds no generator, and OSError when it cannot be read.
    """
    tensors, metadata = checkpoint.read(path)
    try:
        model = GptShape.model_validate_json(metadata["shape"]).build()
        tokenizer, classes = metadata["tokenizer"], json.loads(metadata["classes"])
    except (KeyError, ValidationError) as error:
        raise ValueError(
            "its metadata does not describe a generator: not written by generator.train"
        ) from error
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return Generator(model.eval(), tokenizer, classes)
