"""Options, checkpoint loading and parity verdict shared by the commands of `python -m export`."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from safetensors import SafetensorError

from export.figures import write_figures

Loaded = TypeVar("Loaded")


class Parity(Protocol):
    """Result of comparing graphs with a checkpoint."""

    @property
    def out_of_bounds(self) -> list[str]: ...
    def figures(self) -> dict[str, float]: ...
    def table(self) -> str: ...


def add_options(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add the options of every command. kind: what is exported, "tokenizer" or "generator"."""
    parser.add_argument("--name", help=f"the {kind}'s name in serving; the file name by default")
    parser.add_argument("--repository", type=Path, help="folder to write; model_repository")
    parser.add_argument("--report", type=Path, help="JSON file for the comparison's figures")


def load_checkpoint(load: Callable[[Path], Loaded], path: Path, kind: str) -> Loaded:
    """Load a checkpoint, or exit with one sentence."""
    try:
        return load(path)
    except OSError as error:
        sys.exit(f"cannot read the checkpoint {path}: {error.strerror or error}")
    except (SafetensorError, ValueError, RuntimeError) as error:
        sys.exit(f"{path} is not a {kind} checkpoint: {str(error).splitlines()[0]}")


def check_name(name: str, kind: str) -> str:
    """Return a name that Triton and file systems accept, or exit with one sentence."""
    if not re.fullmatch("[a-z0-9][a-z0-9_.-]*", name):
        sys.exit(f"{name!r} cannot name a {kind}: use a-z, 0-9, '_', '.' and '-'")
    return name


def check_parity(result: Parity, options: argparse.Namespace, *, enforced: bool = True) -> None:
    """Print and save the comparison. Exits when a bound is broken and `enforced`."""
    if options.report is not None:
        write_figures(options.report, result.figures())
    print(result.table())
    if result.out_of_bounds and enforced:
        sys.exit(f"{options.repository} is unchanged: " + "; ".join(result.out_of_bounds))


def print_written(folder: Path) -> None:
    """Print a model's folder and the size of its graph."""
    print(f"wrote {folder} ({(folder / '1/model.onnx').stat().st_size / 1e6:.1f} MB)")
