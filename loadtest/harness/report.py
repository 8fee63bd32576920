"""Write the figures of a benchmark as a JSON report."""

import json
from pathlib import Path


def write_report(path: Path, figures: object) -> None:
    """Write `figures` as indented JSON, creating the folder, and print the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nwrote {path}", flush=True)
