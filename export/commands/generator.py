"""`python -m export generator CHECKPOINT`: a generator's step graph, into model_repository."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from export.commands import common
from export.graphs import generator_graph, generator_parity
from export.graphs.generator_parity import Parity
from export.triton import generator_repository, repository
from generator import checkpoint

# Step graph, its comparison with PyTorch on a number of sequences, and the tokenizer.json of one
# that takes texts
Exported = tuple[onnx.ModelProto, Callable[[bytes, int], Parity], str | None]


def add_parser(commands: Any) -> None:
    """Add this command to argparse's sub-parsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generator", help="a generator of tokens", description=__doc__
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="safetensors of `python -m generator.train`, or `car` folder of a run of "
        "`python -m generator.car`",
    )
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
    name = common.check_name(options.name or options.checkpoint.stem.lower(), "generator")
    export = _car if options.checkpoint.is_dir() else _gpt
    exported, compare, text_tokenizer = export(options.checkpoint, name)
    metadata = generator_graph.read_metadata(exported)
    print(
        f"{name}, fingerprint {metadata.generator_fingerprint}, tokens of {metadata.fingerprint}",
        flush=True,
    )
    graph = exported.SerializeToString()
    print(f"comparing with PyTorch, {metadata.channels} tokens each", flush=True)
    parity = compare(graph, options.sequences)
    common.check_parity(parity, options)
    at_once = generator_repository.MAX_SEQUENCES
    if parity.depends_on_others:
        print("sequences do not share a step: their tokens would depend on each other")
        at_once = 1
    name = generator_repository.write(options.repository, graph, at_once, text_tokenizer)
    common.print_written(options.repository / name)


def _gpt(path: Path, name: str) -> Exported:
    generator = common.load_checkpoint(checkpoint.load, path, "generator")

    def compare(graph: bytes, sequences: int) -> Parity:
        labels = [label - 1 for label in range(min(sequences, len(generator.classes) + 1))]
        return generator_parity.gpt_parity(generator.model, graph, labels)

    return generator_graph.step_graph(generator, name), compare, None


def _car(folder: Path, name: str) -> Exported:
    try:
        from export.graphs import car_graph
        from generator.car import model as car
    except ModuleNotFoundError as error:
        sys.exit(
            f"{folder} is a folder, as of CAR, which needs `pip install channeltok[car]`: {error}"
        )
    generator = common.load_checkpoint(car.load, folder, "generator")

    def compare(graph: bytes, sequences: int) -> Parity:
        texts = [car.NO_CLASS_TEXT, *map(car.text_of, generator.classes)][:sequences]
        return car_graph.parity(generator, graph, texts)

    try:
        exported = car_graph.step_graph(generator, name)
    except ValueError as error:
        sys.exit(f"{folder} cannot be exported: {error}")
    return exported, compare, generator.text.backend_tokenizer.to_str()
