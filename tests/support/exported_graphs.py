"""Exported graphs, kept in build/test-graphs/ between test runs: tracing one takes 10 to 20 s.

A graph is exported again as soon as its weights, its name, the code that makes it or one of the
libraries changes.
"""

import hashlib
import platform
import shutil
from functools import cache
from importlib.metadata import version
from pathlib import Path

from export.graphs import graph
from tokenizer import checkpoint
from tokenizer.models.base import Tokenizer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build/test-graphs"
LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-ir", "numpy")


def encode_graph(model: Tokenizer, name: str) -> bytes:
    """`graph.encode_graph`, serialised."""
    return _exported(model, name, None)


def decode_graph(model: Tokenizer, name: str, budget: int) -> bytes:
    """`graph.decode_graph`, serialised."""
    return _exported(model, name, budget)


def _exported(model: Tokenizer, name: str, budget: int | None) -> bytes:
    file = f"{name}-{checkpoint.fingerprint(model)}-{budget or 'encode'}.onnx"
    path = _folder() / file
    if not path.exists():
        exported = (
            graph.encode_graph(model, name)
            if budget is None
            else graph.decode_graph(model, name, budget)
        )
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(exported.SerializeToString())
        unfinished.rename(path)
    return path.read_bytes()


@cache
def _folder() -> Path:
    """The folder for graphs of this code and these libraries; those of others are removed."""
    digest = hashlib.sha256(platform.python_version().encode())
    for library in LIBRARIES:
        digest.update(version(library).encode())
    for package in ("export/graphs", "tokenizer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    folder = FOLDER / digest.hexdigest()[:16]
    for old in FOLDER.glob("*"):
        if old != folder:
            shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
