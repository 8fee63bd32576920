"""Exported graphs in ONNX Runtime on the device against the checkpoint on the CPU."""

from pathlib import Path

import numpy as np
import onnx
from torch import Tensor

from export.acceptance.bare.numerics import Reference, on_cpu
from export.acceptance.bare.scale import Scale
from export.acceptance.bare.sections import Sections
from export.acceptance.compare import compare, time_it
from export.acceptance.engines import Case, on_onnxruntime
from export.graphs import graph
from tokenizer import checkpoint, inference
from tokenizer.models.base import Tokenizer

MAX_SECONDS = 60.0  # to compare, and again to time


def measure(
    sections: Sections,
    repository: Path,
    model: Tokenizer,
    photos: Tensor,
    provider: str,
    scale: Scale,
) -> None:
    """Report tokens, pixels and speed of each graph of this checkpoint. model: on the CPU."""
    reference = on_cpu(model, photos, scale.reference_seconds)
    cases = load_cases(repository, model, photos, reference)
    if not cases:
        sections.skipped.append(f"graphs: {repository} has none of this checkpoint")
        return
    report, engine = sections.report, f"ONNX Runtime, {provider}"
    run = on_onnxruntime(cases, provider)
    batch = min(32, len(photos))
    sections.attempt(
        f"graphs compared, {provider}",
        lambda: compare(report, engine, run, cases, batch),
        MAX_SECONDS,
    )
    sections.attempt(
        f"graphs timed, {provider}",
        lambda: time_it(report, engine, run, cases, list(scale.batches), scale.repeats),
        MAX_SECONDS,
    )


def load_cases(
    repository: Path, model: Tokenizer, photos: Tensor, reference: Reference
) -> list[Case]:
    """Cases of all graphs of `model` in a model repository. reference: of the same photos."""
    count = len(reference.tokens)
    cases = []
    for path in sorted(repository.glob("*/1/model.onnx")):
        metadata = graph.read_metadata(onnx.load(path))
        if metadata.fingerprint != checkpoint.fingerprint(model):
            continue
        if metadata.role == "encode":
            inputs, expected = photos[:count].numpy(), reference.tokens.numpy()
        else:
            inputs = np.ascontiguousarray(reference.tokens[:, : metadata.budget].numpy())
            expected = inference.decode(model, reference.tokens, metadata.budget)
        cases.append(Case(path.parents[1].name, metadata, path.read_bytes(), inputs, expected))
    return cases
