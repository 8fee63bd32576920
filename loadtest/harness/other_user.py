"""What another user of this host can do."""

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

NOBODY = 65534
Result = TypeVar("Result")


def as_nobody(action: Callable[[], Result]) -> Result:
    """Call `action` in a fork of this process that belongs to `nobody`; needs root.

    The result is pickled. Raises RuntimeError when the action does.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with os.fdopen(write_end, "wb") as pipe:
                pickle.dump(action(), pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        data = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError("the action of the other user failed")
    result: Result = pickle.loads(data)
    return result
