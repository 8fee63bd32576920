"""The exported graphs in ONNX Runtime on the device, against the checkpoint on the CPU."""

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

AT_MOST = 60.0  # seconds for each half


def measure(
    sections: Sections,
    repository: Path,
    model: Tokenizer,
    photos: Tensor,
    provider: str,
    scale: Scale,
) -> None:
    """Tokens, pixels and speed of each graph of this checkpoint. model: on the CPU."""
    reference = on_cpu(model, photos, scale.reference)
    found = cases(repository, model, photos, reference)
    if not found:
        sections.left_out.append(f"graphs: {repository} has none of this checkpoint")
        return
    report, engine = sections.report, f"ONNX Runtime, {provider}"
    run = on_onnxruntime(found, provider)
    batch = min(32, len(photos))
    sections.attempt(
        f"graphs compared, {provider}",
        lambda: compare(report, engine, run, found, batch),
        AT_MOST,
    )
    sections.attempt(
        f"graphs timed, {provider}",
        lambda: time_it(report, engine, run, found, list(scale.batches), scale.repeats),
        AT_MOST,
    )


def cases(repository: Path, model: Tokenizer, photos: Tensor, reference: Reference) -> list[Case]:
    """The graphs of `model` in a model repository, with what they should make of photos."""
    count = len(reference.tokens)
    found = []
    for path in sorted(repository.glob("*/1/model.onnx")):
        metadata = graph.read_metadata(onnx.load(path))
        if metadata.fingerprint != checkpoint.fingerprint(model):
            continue
        if metadata.role == "encode":
            given, due = photos[:count].numpy(), reference.tokens.numpy()
        else:
            given = np.ascontiguousarray(reference.tokens[:, : metadata.budget].numpy())
            due = inference.decode(model, reference.tokens, metadata.budget)
        found.append(Case(path.parents[1].name, metadata, path.read_bytes(), given, due))
    return found
