"""Model repositories that attacks need, made by processes of their own: they need PyTorch, and memory that the service should have."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from loadtest.harness.service_process import ROOT

BUILD = ROOT / "build/chaos"
DEMO = ROOT / "tokenizer/weights/demo.safetensors"
_WIDE = """
import sys, torch
from pathlib import Path
from export.graphs import graph
from export.triton import repository
from tokenizer.models.channeltok import ChannelTok, ShuffleShape
torch.manual_seed(0)
model = ChannelTok(ShuffleShape(widths=(320, 480, 960, 1280))).half().float().eval()
graphs = [graph.encode_graph(model, "wide"), graph.decode_graph(model, "wide", model.shape.channels)]
repository.write(Path(sys.argv[1]), "wide", [one.SerializeToString() for one in graphs])
"""


def wide_repository() -> Path:
    """The demo's shape at five times its widths, random weights: slow enough that ten times its capacity can be sent beside it."""
    repository = BUILD / "wide-5"
    if not repository.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        _python("-c", _WIDE, str(repository))
    return repository


def demo_repository(folder: Path) -> Path:
    """A copy of the committed repository, to be exported into."""
    repository = folder / "model_repository"
    shutil.copytree(
        ROOT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__")
    )
    return repository


def nudged_demo(folder: Path) -> Path:
    """A checkpoint of the demo tokenizer with every weight moved by about a percent: another training, as far as a service can tell."""
    path = folder / "demo.safetensors"
    chance = np.random.default_rng(0)
    with safe_open(DEMO, "numpy") as demo:
        weights = {name: demo.get_tensor(name) for name in demo.keys()}  # noqa: SIM118 (it is no dictionary)
        facts = demo.metadata()
    save_file(
        {
            name: (w * (1 + 0.01 * chance.standard_normal(w.shape))).astype(w.dtype)
            for name, w in weights.items()
        },
        path,
        facts,
    )
    return path


def export(checkpoint: Path, repository: Path) -> None:
    """As an operator does. Raises subprocess.CalledProcessError, with what it said in `stderr`."""
    photos = str(ROOT / "docs/images/*.jpg")
    _python(
        "-m",
        "export",
        str(checkpoint),
        "--name",
        "demo",
        "--repository",
        str(repository),
        "--data",
        photos,
        "--photos",
        "2",
    )


@cache
def nudged_repository() -> Path:
    """The committed repository after an export of the nudged demo, made once for all that only need to switch to it."""
    folder = BUILD / "nudged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    repository = demo_repository(folder)
    export(nudged_demo(folder), repository)
    return repository


def replace(repository: Path, new: Path) -> None:
    """Put a copy of `new` in the place of `repository`, as an export does at its end."""
    fresh = repository.with_name("fresh")
    shutil.copytree(new, fresh)
    repository.rename(repository.with_name("previous"))
    fresh.rename(repository)


def _python(*arguments: str) -> None:
    try:
        subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        raise RuntimeError(
            f"python {' '.join(arguments)[:80]} failed: {error.stderr.strip()[-300:]}"
        ) from error
