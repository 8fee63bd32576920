"""`python -m export generator`: from a generator's checkpoint to what Triton serves, if the graph does what the checkpoint does."""

import argparse
import json
import re
import sys
from pathlib import Path

from safetensors import SafetensorError

from export.graphs import generator_graph, generator_parity
from export.triton import generator_repository, repository
from generator import checkpoint
from generator.checkpoint import Generator


def main(arguments: list[str]) -> None:
    """Runs the command. Exits with 1 and a sentence when the checkpoint is none, or when the graph disagrees with it."""
    options = _options(arguments)
    repository.check_writable(options.repository)
    generator = _generator(options.checkpoint)
    name = options.name or options.checkpoint.stem.lower()
    if not re.fullmatch("[a-z0-9][a-z0-9_.-]*", name):
        sys.exit(f"{name!r} cannot name a generator: use a-z, 0-9, '_', '.' and '-'")
    shape = generator.model.shape
    print(
        f"{name}, fingerprint {checkpoint.fingerprint(generator.model)}, tokens of {generator.tokenizer}",
        flush=True,
    )
    graph = generator_graph.step_graph(generator, name).SerializeToString()
    labels = [label - 1 for label in range(min(options.sequences, shape.classes + 1))]
    print(
        f"comparing with PyTorch on {len(labels)} sequences of {shape.channels} tokens", flush=True
    )
    result = generator_parity.measure(generator.model, graph, labels, shape.channels)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(result.figures(), indent=2) + "\n")
    print(result.table())
    if result.out_of_bounds:
        sys.exit(f"{options.repository} was left as it was: " + "; ".join(result.out_of_bounds))
    folder = options.repository / generator_repository.write(options.repository, graph)
    print(f"wrote {folder} ({(folder / '1/model.onnx').stat().st_size / 1e6:.1f} MB)")


def _generator(path: Path) -> Generator:
    try:
        return checkpoint.load(path)
    except OSError as error:
        sys.exit(f"cannot read the checkpoint {path}: {error.strerror or error}")
    except (SafetensorError, ValueError, RuntimeError) as error:
        sys.exit(f"{path} is not a generator's checkpoint: {str(error).splitlines()[0]}")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m export generator", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="safetensors of `python -m generator.train`")
    parser.add_argument(
        "--name", help="the generator's name, under which it is served; the checkpoint's file name"
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        help="folder to write; model_repository",
    )
    parser.add_argument(
        "--sequences",
        type=int,
        default=4,
        help="how many to compare, one of no class and one of each of the first; 4",
    )
    parser.add_argument(
        "--report",
        type=Path,
        help="JSON file for the figures of the comparison; without it they are only printed",
    )
    return parser.parse_args(arguments)
