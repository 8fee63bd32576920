"""Report of an acceptance test: Markdown lines, figures, and violated bounds."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime
import torch

from export.figures import write_figures


@dataclass
class Report:
    """A report that grows line by line. violations: a sentence per bound that does not hold."""

    lines: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, *lines: str) -> None:
        """Print lines and add them to the report."""
        print(*lines, sep="\n", flush=True)
        self.lines.extend(lines)

    def write(self, folder: Path) -> None:
        """Write what there is so far to report.md and report.json."""
        write_figures(folder / "report.json", self.figures)
        (folder / "report.md").write_text("\n".join(self.lines) + "\n")


def machine() -> str:
    """One line about the GPU and the versions of torch and onnxruntime."""
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
