"""Exported graphs, kept in build/test-graphs/ between test runs: tracing one takes 10 to 20 s.

A graph is exported again as soon as its weights, its name, the code that makes it or one of the
libraries changes.
"""

import hashlib
import platform
import shutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnx

from export.graphs import generator_graph, graph
from generator import checkpoint as generator_checkpoint
from generator.checkpoint import Generator
from tokenizer import checkpoint
from tokenizer.models.base import Tokenizer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build/test-graphs"
LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-ir", "numpy")


def encode_graph(model: Tokenizer, name: str) -> bytes:
    """`graph.encode_graph`, serialised."""
    file = f"{name}-{checkpoint.fingerprint(model)}-encode"
    return _exported(file, lambda: graph.encode_graph(model, name))


def decode_graph(model: Tokenizer, name: str, budget: int) -> bytes:
    """`graph.decode_graph`, serialised."""
    file = f"{name}-{checkpoint.fingerprint(model)}-decode-{budget}"
    return _exported(file, lambda: graph.decode_graph(model, name, budget))


def step_graph(generator: Generator, name: str) -> bytes:
    """`generator_graph.step_graph`, serialised."""
    fingerprint = generator_checkpoint.fingerprint(generator.model)
    classes = hashlib.sha256("\n".join(generator.classes).encode()).hexdigest()[:16]
    file = f"{name}-{fingerprint}-{generator.tokenizer}-{classes}-step"
    return _exported(file, lambda: generator_graph.step_graph(generator, name))


def _exported(file: str, export: Callable[[], onnx.ModelProto]) -> bytes:
    path = _folder() / f"{file}.onnx"
    if not path.exists():
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(export().SerializeToString())
        unfinished.rename(path)
    return path.read_bytes()


@cache
def _folder() -> Path:
    """The folder for graphs of this code and these libraries; those of others are removed."""
    digest = hashlib.sha256(platform.python_version().encode())
    for library in LIBRARIES:
        digest.update(version(library).encode())
    for package in ("export/graphs", "tokenizer", "generator"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    folder = FOLDER / digest.hexdigest()[:16]
    for old in FOLDER.glob("*"):
        if old != folder:
            shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
