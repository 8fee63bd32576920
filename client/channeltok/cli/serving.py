"""`channeltok serve`, and dataset commands `--in-process`: programs of the extra `serve`.

The client imports nothing of the service. These commands replace this process by the service's own
program, which the wheel has beside the client, and a checkout in its root.
"""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from channeltok.cli.command import CommandFailed

PYTHONS = ((3, 11), (3, 12))
"""Versions that Triton's python backend and numpy 1 both have."""


def serve(arguments: Sequence[str]) -> NoReturn:
    """Become the service, with its own command line. Raises CommandFailed, OSError."""
    _become("serve", "", arguments)


def run_in_process(arguments: Sequence[str]) -> NoReturn:
    """Become a dataset command with the engines in its own process: arguments[0] names it.

    Raises CommandFailed, OSError.
    """
    _become("--in-process", ".in_process", arguments)


def _become(command: str, module: str, arguments: Sequence[str]) -> NoReturn:
    version = sys.version_info[:2]
    if version not in PYTHONS:
        allowed = " or ".join(".".join(map(str, one)) for one in PYTHONS)
        raise CommandFailed(
            f"{command} needs Python {allowed}, this is {version[0]}.{version[1]}; "
            "the client runs on 3.10 and all later ones"
        )
    package = "channeltok.service" if find_spec("channeltok.service") else "service"
    if find_spec(package) is None or find_spec("pydantic_settings") is None:
        raise CommandFailed(f"{command} needs more packages: pip install 'channeltok[serve]'")
    # As for any installed command, the current folder is no place to import from.
    os.environ["PYTHONSAFEPATH"] = "1"
    # service/__init__.py and service/__main__.py say why. Below `channeltok` they would come too
    # late: the client, and with it gRPC, is imported before.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", package + module, *arguments])
