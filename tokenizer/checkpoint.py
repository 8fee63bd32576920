"""The file a tokenizer travels in: fp16 safetensors with its shape in the metadata."""

import hashlib
import json
import os
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file

from tokenizer.channeltok import ChannelTok, PaperShape, Shape, ShuffleShape

_SHAPE: TypeAdapter[PaperShape | ShuffleShape] = TypeAdapter(Shape)


def save(model: ChannelTok, path: Path, facts: dict[str, str] | None = None) -> None:
    """Write the weights as fp16, the shape and any further `facts` (training record) as metadata."""
    metadata = {"shape": model.shape.model_dump_json(), **(facts or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}, temporary, metadata)
    temporary.chmod(0o644)
    os.replace(temporary, path)  # whoever reads it meanwhile gets the old file or the new one


def load(path: Path) -> ChannelTok:
    """Read a model in fp32, ready for inference. Raises ValueError when the file does not say which shape it has."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "shape" not in metadata:
            raise ValueError(f"{path} has no 'shape' in its metadata: not written by tokenizer.checkpoint.save")
        model = ChannelTok(_SHAPE.validate_json(metadata["shape"]))
        model.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118 (not a dict)
    return model.eval()


def facts(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint: its shape as JSON and the training record."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def fingerprint(model: ChannelTok) -> str:
    """16 hex digits: the first 8 bytes of a sha256 over the shape and every weight as fp16, in order of name.

    It is what tokens are bound to: the same weights give the same fingerprint whatever file, graph or engine holds them.
    """
    digest = hashlib.sha256(json.dumps(model.shape.model_dump(mode="json"), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.to(torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
