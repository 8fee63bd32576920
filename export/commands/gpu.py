"""`python -m export gpu [CHECKPOINT]`: a tokenizer for a GPU, with a decode graph per budget in
fp16, into build/gpu_repository.
"""

import argparse
from pathlib import Path
from typing import Any

from export.commands import tokenizer
from export.triton import triton_config


def add_parser(commands: Any) -> None:
    """Add this command to argparse's sub-parsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "gpu", help="a tokenizer for TensorRT or ONNX Runtime on a GPU", description=__doc__
    )
    tokenizer.add_options(parser, checkpoint_required=False)
    parser.add_argument(
        "--engine",
        choices=sorted(set(triton_config.ENGINES) - {triton_config.PYTHON.name}),
        default="tensorrt",
    )
    parser.set_defaults(
        run=tokenizer.run,
        checkpoint=tokenizer.DEMO,
        repository=Path("build/gpu_repository"),
        budgets=[32, 64, 128, 256, 512],
        int8=False,
    )
