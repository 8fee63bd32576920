"""What another user of this host can do."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import cloudpickle

NOBODY = 65534
Result = TypeVar("Result")


def as_nobody(action: Callable[[], Result]) -> Result:
    """Call `action` in a new process that belongs to `nobody`; needs root.

    A fork of this one would take over locks that other threads hold. Action and result are pickled.
    Raises RuntimeError when the action raises.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=cloudpickle.dumps(action),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError("the action of the other user failed")
    result: Result = pickle.loads(done.stdout)
    return result


def main() -> None:
    """Read an action from standard input, run it as `nobody`, and write its result."""
    action = pickle.load(sys.stdin.buffer)  # imports what it needs, as root
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    result = action()
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
