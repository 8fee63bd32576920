"""Model repositories for the attacks, built in subprocesses, which keep PyTorch's memory."""

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


def wide_repository() -> Path:
    """A model slow enough that ten times its capacity can be sent from the same machine."""
    repository = BUILD / "wide-5"
    if not repository.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        _run_module("loadtest.chaos.wide_model", str(repository))
    return repository


def demo_repository(folder: Path) -> Path:
    """A writable copy of the committed repository."""
    repository = folder / "model_repository"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "model_repository", repository, ignore=ignore)
    return repository


def nudged_demo(folder: Path) -> Path:
    """A checkpoint of the demo tokenizer with every weight changed by about a percent.

    To a service it looks like another training.
    """
    path = folder / "demo.safetensors"
    random = np.random.default_rng(0)
    with safe_open(DEMO, "numpy") as demo:
        weights = {name: demo.get_tensor(name) for name in demo.keys()}  # noqa: SIM118 (not a dict)
        metadata = demo.metadata()
    nudged = {
        name: (weight * (1 + 0.01 * random.standard_normal(weight.shape))).astype(weight.dtype)
        for name, weight in weights.items()
    }
    save_file(nudged, path, metadata)
    return path


def export(checkpoint: Path, repository: Path) -> None:
    """Run the export command. Raises RuntimeError with the end of its stderr if it fails."""
    images = str(ROOT / "docs/images/*.jpg")
    options = ["--name", "demo", "--repository", str(repository), "--data", images, "--photos", "2"]
    _run_module("export", "tokenizer", str(checkpoint), *options)


@cache
def nudged_repository() -> Path:
    """The committed repository after an export of the nudged demo; built once per process."""
    folder = BUILD / "nudged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    repository = demo_repository(folder)
    export(nudged_demo(folder), repository)
    return repository


def replace(repository: Path, new: Path) -> None:
    """Swap `repository` for a copy of `new` by renaming, as an export does at its end."""
    fresh = repository.with_name("fresh")
    shutil.copytree(new, fresh)
    repository.rename(repository.with_name("previous"))
    fresh.rename(repository)


def _run_module(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"python -m {module} failed: {result.stderr.strip()[-300:]}")
