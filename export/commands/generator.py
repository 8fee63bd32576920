"""`python -m export generator CHECKPOINT`: a generator's step graph, into model_repository."""

import argparse
from pathlib import Path
from typing import Any

from export.commands import common
from export.graphs import generator_graph, generator_parity
from export.triton import generator_repository, repository
from generator import checkpoint


def add_parser(commands: Any) -> None:
    """Add this command to argparse's sub-parsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generator", help="a generator of tokens", description=__doc__
    )
    parser.add_argument("checkpoint", type=Path, help="safetensors of `python -m generator.train`")
    common.add_options(parser, "generator")
    parser.add_argument(
        "--sequences",
        type=int,
        default=4,
        help="how many to compare: one without a class, then one per class; 4",
    )
    parser.set_defaults(run=run, repository=Path("model_repository"))


def run(options: argparse.Namespace) -> None:
    """Export, compare and write; exits with one sentence when any of these fails."""
    repository.check_writable(options.repository)
    generator = common.load_checkpoint(checkpoint.load, options.checkpoint, "generator")
    name = common.check_name(options.name or options.checkpoint.stem.lower(), "generator")
    model, shape = generator.model, generator.model.shape
    print(
        f"{name}, fingerprint {checkpoint.fingerprint(model)}, tokens of {generator.tokenizer}",
        flush=True,
    )
    graph = generator_graph.step_graph(generator, name).SerializeToString()
    labels = [label - 1 for label in range(min(options.sequences, shape.classes + 1))]
    print(
        f"comparing with PyTorch on {len(labels)} sequences of {shape.channels} tokens", flush=True
    )
    parity = generator_parity.measure(model, graph, labels, shape.channels)
    common.check_parity(parity, options)
    sequences = generator_repository.MAX_SEQUENCES
    if parity.depends_on_others:
        print("sequences do not share a step: their tokens would depend on each other")
        sequences = 1
    name = generator_repository.write(options.repository, graph, sequences)
    common.print_written(options.repository / name)
