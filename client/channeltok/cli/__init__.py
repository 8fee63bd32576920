"""The command line `channeltok`: its parser and main().

Commands by module: images (encode, decode, info), generate, datasets (tokenize, detokenize,
verify).
"""

from collections.abc import Sequence
from importlib.metadata import version

from channeltok.cli import datasets, generate, images
from channeltok.cli.command import CommandParser, run_command
from channeltok.cli.server_options import server_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` default to the process's own. Returns the exit code."""
    parser = CommandParser(
        prog="channeltok", description="Client of a ChannelTok service: images to tokens and back."
    )
    parser.add_argument(
        "--version", action="version", version=f"channeltok {version('channeltok')}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parents = [server_parser()]
    images.add_commands(commands, parents)
    generate.add_command(commands, parents)
    datasets.add_commands(commands, parents, datasets.connect_to_servers, datasets.server_cluster)
    return run_command(parser, arguments)
