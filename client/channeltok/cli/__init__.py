"""The command line `channeltok`: its parser and main().

Commands by module: images (encode, decode, info), generate, datasets (tokenize, detokenize,
verify), serving (serve, and --in-process of the dataset commands).
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

from channeltok.cli import datasets, generate, images, serving
from channeltok.cli.command import CommandParser, exit_code_of, run_command
from channeltok.cli.server_options import server_parser

IN_PROCESS = "--in-process"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` default to the process's own. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # These two have command lines of their own.
    if words[:1] == ["serve"]:
        return exit_code_of(partial(serving.serve, words[1:]))
    if IN_PROCESS in words:
        words.remove(IN_PROCESS)
        return exit_code_of(partial(serving.run_in_process, words))
    parser = CommandParser(
        prog="channeltok",
        description="Images to short, ordered token sequences and back: client and service.",
    )
    parser.add_argument(
        "--version", action="version", version=f"channeltok {version('channeltok')}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parents = [server_parser()]
    images.add_commands(commands, parents)
    generate.add_command(commands, parents)
    in_process = argparse.ArgumentParser(add_help=False)
    in_process.add_argument(
        IN_PROCESS,
        action="store_true",
        help="run the engines in this process instead of calling a service; it has other options, "
        f"which {IN_PROCESS} --help lists; needs the extra serve",
    )
    datasets.add_commands(
        commands, [*parents, in_process], datasets.connect_to_servers, datasets.server_cluster
    )
    commands.add_parser("serve", help="start the service on this machine; needs the extra serve")
    return run_command(parser, words)
