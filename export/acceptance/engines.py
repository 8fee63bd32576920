"""Engines that `make gpu-acceptance` compares: ONNX Runtime and PyTorch on a GPU.

Each is a function that runs a graph of the checkpoint, by the name of its Triton model.
"""

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
    """A Triton model with test inputs and the outputs that fp32 on the CPU computes from them."""

    name: str
    metadata: graph.ModelMetadata
    graph: bytes
    inputs: Array
    expected: Array


def load_cases(folder: Path, model: Tokenizer, photos: Array) -> list[Case]:
    """Cases of all graphs of `model` in a repository. Exits with one sentence without any."""
    tokens = parity.run(graph.encode_graph(model, "reference").SerializeToString(), photos)
    decodes = {
        budget: graph.decode_graph(model, "reference", budget).SerializeToString()
        for budget in (*model.narrow_budgets, model.shape.channels)
    }
    cases = []
    for path in sorted(folder.glob("*/1/model.onnx")):
        name, metadata = path.parents[1].name, graph.read_metadata(onnx.load(path))
        if metadata.fingerprint != checkpoint.fingerprint(model):
            continue
        if metadata.role == "encode":
            cases.append(Case(name, metadata, path.read_bytes(), photos, tokens))
        else:
            prefix = np.ascontiguousarray(tokens[:, : metadata.budget])
            budget, decode = next(item for item in decodes.items() if item[0] >= metadata.budget)
            present = np.arange(budget) < metadata.budget
            padded = np.where(present, tokens[:, :budget], ABSENT).astype(np.int32)
            expected = parity.run(decode, padded)
            cases.append(Case(name, metadata, path.read_bytes(), prefix, expected))
    if not cases:
        sys.exit(
            f"{folder} has no graph of this checkpoint: write them with `python -m export gpu`"
        )
    return cases


def on_onnxruntime(cases: list[Case], provider: str = "CUDAExecutionProvider") -> Run:
    """ONNX Runtime with an execution provider."""
    options: dict[str, str] = {}
    if provider == "CUDAExecutionProvider":
        onnxruntime.preload_dlls()  # CUDA's libraries are in wheels, off the loader's path
        options = {"use_tf32": "0"}  # as in Triton
    providers = [(provider, options)]
    sessions = {
        case.name: onnxruntime.InferenceSession(case.graph, providers=providers) for case in cases
    }
    return lambda name, array: np.asarray(
        sessions[name].run(None, {sessions[name].get_inputs()[0].name: array})[0]
    )


def on_torch(cases: list[Case], model: Tokenizer, compiled: bool) -> Run:
    """PyTorch on the GPU, decode in fp16, channels last."""
    model = copy.deepcopy(model)
    for decoder in model.decoders:
        fp16.convert_convolutions(decoder)
    model = model.cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    modules: dict[str, Any] = {}
    for case in cases:
        module = graph.Encode(model) if case.metadata.role == "encode" else graph.Decode(model)
        modules[case.name] = torch.compile(module) if compiled else module

    def run(name: str, array: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(modules[name](torch.from_numpy(array).cuda()).cpu().numpy())

    return run
