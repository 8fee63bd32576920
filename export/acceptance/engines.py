"""The engines that `make gpu-acceptance` compares: each runs the graphs of one checkpoint, by the name of their Triton model."""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from export.graphs import fp16, graph, parity
from tokenizer import checkpoint
from tokenizer.models.base import Tokenizer
from tokenizer.models.bsq import ABSENT

Array = NDArray[Any]
Run = Callable[[str, Array], Array]


@dataclass(frozen=True)
class Case:
    """One Triton model: its graph, what goes in, and what fp32 on the CPU makes of it."""

    name: str
    metadata: graph.ModelMetadata
    model: bytes
    given: Array
    due: Array


def cases(folder: Path, model: Tokenizer, photos: Array) -> list[Case]:
    """The models of `folder` that are of `model`. Exits with a sentence when it has none."""
    tokens = parity.run(graph.encode_graph(model, "reference").SerializeToString(), photos)
    decode = graph.decode_graph(model, "reference", model.shape.channels).SerializeToString()
    found = []
    for path in sorted(folder.glob("*/1/model.onnx")):
        name, metadata = path.parents[1].name, graph.read_metadata(onnx.load(path))
        if metadata.fingerprint != checkpoint.fingerprint(model):
            continue
        if metadata.role == "encode":
            found.append(Case(name, metadata, path.read_bytes(), photos, tokens))
        else:
            kept = np.ascontiguousarray(tokens[:, : metadata.budget])
            due = parity.run(
                decode,
                np.where(np.arange(model.shape.channels) < metadata.budget, tokens, ABSENT).astype(
                    np.int32
                ),
            )
            found.append(Case(name, metadata, path.read_bytes(), kept, due))
    if not found:
        sys.exit(
            f"{folder} has no graph of this checkpoint: write them with `python -m export gpu`"
        )
    return found


def on_onnxruntime(of: list[Case], provider: str = "CUDAExecutionProvider") -> Run:
    options: dict[str, str] = {}
    if provider == "CUDAExecutionProvider":
        onnxruntime.preload_dlls()  # CUDA's libraries lie in wheels, where the loader does not look
        options = {"use_tf32": "0"}  # what the graph keeps in fp32 is meant to be
    providers = [(provider, options)]
    sessions = {
        case.name: onnxruntime.InferenceSession(case.model, providers=providers) for case in of
    }
    return lambda name, array: np.asarray(
        sessions[name].run(None, {sessions[name].get_inputs()[0].name: array})[0]
    )


def on_torch(of: list[Case], model: Tokenizer, compiled: bool) -> Run:
    model = copy.deepcopy(model)
    fp16.convert_convolutions(model.decoder)
    model = model.cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    modules: dict[str, Any] = {}
    for case in of:
        module = graph.Encode(model) if case.metadata.role == "encode" else graph.Decode(model)
        modules[case.name] = torch.compile(module) if compiled else module

    def run(name: str, array: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(modules[name](torch.from_numpy(array).cuda()).cpu().numpy())

    return run
