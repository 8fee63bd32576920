"""What an acceptance of a GPU host finds: lines for people, figures for programs, and what must not be."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime
import torch

from export.figures import write_figures


@dataclass
class Report:
    """Grows line by line; broken holds a sentence for everything that must not be."""

    lines: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def say(self, *lines: str) -> None:
        print(*lines, sep="\n", flush=True)
        self.lines.extend(lines)

    def write(self, folder: Path) -> None:
        """report.md and report.json, as far as they go."""
        write_figures(folder / "report.json", self.figures)
        (folder / "report.md").write_text("\n".join(self.lines) + "\n")


def machine() -> str:
    """The GPU and the versions of what computes on it, as a sentence."""
    try:
        gpu = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
    except FileNotFoundError:
        gpu = ""
    return (
        f"GPU: {gpu or 'none'}. torch {torch.__version__}, onnxruntime {onnxruntime.__version__}."
    )
