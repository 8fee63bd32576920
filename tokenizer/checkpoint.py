"""Save and load model checkpoints (fp16 safetensors with the shape as metadata); fingerprints."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenizer import paper_checkpoint
from tokenizer.models.base import Tokenizer
from tokenizer.models.registry import SHAPE


class Shape(Protocol):
    """Architecture of a model, as a pydantic model."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...

    def model_dump_json(self) -> str: ...


class Model(Protocol):
    """A module with a shape: a tokenizer or a generator."""

    @property
    def shape(self) -> Shape: ...

    def state_dict(self) -> dict[str, Tensor]: ...


def save(model: Model, path: Path, facts: dict[str, str] | None = None) -> None:
    """Write the weights as fp16; metadata: the shape and further `facts` (training record)."""
    metadata = {"shape": model.shape.model_dump_json(), **(facts or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(
        {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()},
        temporary,
        metadata,
    )
    temporary.chmod(0o644)
    os.replace(temporary, path)  # a concurrent reader gets the old file or the new one


def load(path: Path) -> Tokenizer:
    """Load a tokenizer in fp32, in eval mode, from a file of `save` or the paper's training code.

    For the latter see tokenizer.paper_checkpoint. Raises ValueError, listing the differences, for
    weights of no known tokenizer, and OSError when the file cannot be read.
    """
    tensors, metadata = read(path)
    if "shape" not in metadata:
        return paper_checkpoint.load(tensors)
    model: Tokenizer = SHAPE.validate_json(metadata["shape"]).build()
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval()


def facts(path: Path) -> dict[str, str]:
    """Metadata of a checkpoint: its shape as JSON, the training record; empty for foreign files."""
    return read(path)[1]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, in their stored precision, and the metadata. Raises as `load` does."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError:
        return _read_pickle(path), {}


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # weights_only: unpickling an untrusted file can run code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            "neither safetensors nor a PyTorch file of tensors alone; save its state_dict by "
            "itself, in safetensors or with torch.save"
        ) from error
    for wrapper in ("model_state_dict", "state_dict"):
        if isinstance(content, dict) and wrapper in content:
            content = content[wrapper]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise ValueError(
            "holds no state_dict: a dictionary of tensors, alone or under 'model_state_dict' or "
            "'state_dict', is needed"
        )
    return content


def fingerprint(model: Model) -> str:
    """16 hex digits: first 8 bytes of a SHA-256 over the shape and all weights as fp16, by name.

    Tokens carry it: the same weights have the same fingerprint in any file, graph or engine.
    """
    shape = json.dumps(model.shape.model_dump(mode="json"), sort_keys=True)
    return fingerprint_of_weights(model.state_dict(), shape.encode())


def fingerprint_of_weights(weights: dict[str, Tensor], start: bytes = b"") -> str:
    """`fingerprint` of `start` and a state dict, for models without a shape."""
    digest = hashlib.sha256(start)
    for name, value in sorted(weights.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
