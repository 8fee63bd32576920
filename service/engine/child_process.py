"""Processes that end when this one does, however it ends."""

import sys

# Runs in the child before its program: prctl(PR_SET_PDEATHSIG, SIGKILL). Popen's preexec_fn would do the same, but is not safe in a process
# with threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)


def bound(*command: str) -> list[str]:
    """The command, so that it is killed when its parent dies. Its first part is a path."""
    return [sys.executable, "-ISc", _DIE_WITH_PARENT, *command]
