"""`channeltok tokenize --in-process`, detokenize and verify: no running service is needed.

The engines run in this process, with the settings
CHANNELTOK_ENGINE, _ENCODE_PRECISION, _DECODE_PRECISION, _DEFAULT_TOKENIZER and _MAX_PIXELS.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from channeltok.cli import datasets
from channeltok.cli.command import CommandFailed, CommandParser, run_command
from pydantic import ValidationError

from service.engine.in_process import InProcessEngine
from service.settings import EngineSettings, explain

if TYPE_CHECKING:
    from channeltok.datasets.on_ray import Cluster


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` default to the process's own. Returns the exit code."""
    engine_options = argparse.ArgumentParser(add_help=False)
    engine_options.add_argument(
        "--model-repository",
        metavar="FOLDER",
        type=Path,
        help="where the models are; default: $CHANNELTOK_MODEL_REPOSITORY, else model_repository",
    )
    engine_options.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="a tokenizer of the repository; default: CHANNELTOK_DEFAULT_TOKENIZER, or the first",
    )
    parser = CommandParser(
        prog="channeltok",
        description="Dataset commands with --in-process: the engines run in this process.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    datasets.add_commands(commands, [engine_options], _open_engines, _make_cluster)
    return run_command(parser, arguments)


def _settings(options: argparse.Namespace) -> EngineSettings:
    repository = options.model_repository
    try:
        return EngineSettings(**({} if repository is None else {"model_repository": repository}))
    except ValidationError as error:
        raise CommandFailed(explain(error), exit_code=2) from error


@contextmanager
def _open_engines(options: argparse.Namespace) -> Iterator[list[InProcessEngine]]:
    with closing(InProcessEngine(_settings(options))) as engine:
        yield [engine]


def _make_cluster(options: argparse.Namespace) -> "Cluster":
    """Workers need this environment, or checkout, and the repository at the same paths as here."""
    from channeltok.datasets.on_ray import Cluster

    settings = _settings(options)
    settings = settings.model_copy(update={"model_repository": settings.model_repository.resolve()})
    make_engine = partial(InProcessEngine, settings, threads=1)
    checkout = Path(__file__).parents[1] if __package__ == "service" else None
    return Cluster(options.ray, make_engine, import_path=checkout)


if __name__ == "__main__":
    sys.exit(main())
