"""Run one command of the command line: exit codes, and failures as one line on stderr."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from channeltok.errors import ChannelTokError


class CommandFailed(Exception):
    """The command cannot be carried out; the message says why.

    exit_code: 1 for a failure, 2 for wrong usage.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CommandParser(argparse.ArgumentParser):
    """An argument parser that reports wrong usage in one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"channeltok: {message} (see {self.prog} --help)\n")


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Parse `arguments` (None: the process's own) and call the command's `run(options)`.

    Returns the exit code: 0, 1 for a failure, 2 for wrong usage, 130 when interrupted.
    """
    options = parser.parse_args(arguments)
    return exit_code_of(partial(options.run, options), getattr(options, "server", ""))


def exit_code_of(command: Callable[[], Any], server: str = "") -> int:
    """Call a command and report its failure; see `run_command`. server: the one that it calls."""
    try:
        command()
        sys.stdout.flush()
    except CommandFailed as error:
        return _print_failure(str(error), error.exit_code)
    except ChannelTokError as error:
        return _print_failure(_explain(error, server))
    except BrokenPipeError:
        # The reader of our output closed it, as `| head` does. Exit must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _print_failure(message)
    except KeyboardInterrupt as error:
        return _print_failure(str(error) or "interrupted", 130)
    return 0


def _explain(error: ChannelTokError, server: str) -> str:
    if error.code == "UNAVAILABLE":
        return f"no service at {server}: {error.message}"
    hint = "" if error.retry_after is None else f" (try again in {error.retry_after:g} s)"
    return f"{error.message} [{error.code}]{hint}"


def _print_failure(message: str, exit_code: int = 1) -> int:
    print("channeltok:", " ".join(message.split()), file=sys.stderr)
    return exit_code
