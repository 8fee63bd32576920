"""`python -m export tokenizer|gpu|generator`: turn a checkpoint into models that Triton serves.

Every command compares its graphs with the checkpoint and writes nothing when they disagree.
"""

import argparse
from collections.abc import Sequence

from export.commands import generator, gpu, tokenizer


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the chosen command; `run` is the function that executes it."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (tokenizer, gpu, generator):
        command.add_parser(commands)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen command. Exits with 1 and one sentence when it cannot be done."""
    options = parse(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
