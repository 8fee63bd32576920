"""Last step of `make gpu-rehearsal`: two checkpoints, split and joined, hold the same weights."""

import platform
import sys
from pathlib import Path

import numpy
import torch

from tokenizer import checkpoint


def main() -> None:
    """Print the fingerprint of two checkpoints, or exit with 1 when they differ."""
    whole, joined = (checkpoint.fingerprint(checkpoint.load(Path(path))) for path in sys.argv[1:])
    if whole != joined:
        sys.exit(f"{whole} was split into parts, and they joined to {joined}")
    print(
        f"GPU kit rehearsed on the CPU with Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {numpy.__version__}: {whole} trained, split and joined"
    )


if __name__ == "__main__":
    main()
