"""Figures of a benchmark or check as a flat JSON file, as every report in build/ is."""

import json
from collections.abc import Mapping
from pathlib import Path


def write_figures(path: Path, figures: Mapping[str, float]) -> None:
    """Write name -> number as JSON. Missing folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
