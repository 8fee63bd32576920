"""Dataset commands as processes, and the files that they write."""

import sys
from pathlib import Path

IN_PROCESS = [sys.executable, "-m", "service.in_process", "tokenize"]
ON_A_SERVICE = [str(Path(sys.executable).with_name("channeltok")), "tokenize"]


def content(destination: Path) -> dict[str, bytes]:
    """Relative path -> bytes of all files but the summary, which describes the last run."""
    files = [path for path in destination.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(destination)): path.read_bytes()
        for path in files
        if path.name != "summary.json"
    }
