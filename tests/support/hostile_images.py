"""Images whose decoding does to a worker process what a broken decoder may do."""

import ctypes
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import imaging


@dataclass(frozen=True)
class HostileImage:
    """Stands for an imaging.ImageFile in a worker. act: what its decoding does, a method's name."""

    act: str

    def memory(self, size: int, fit: imaging.Fit) -> int:
        return 2**20

    def pixels(self, size: int, fit: imaging.Fit) -> NDArray[np.uint8]:
        getattr(self, self.act)()
        return np.full((size, size, 3), os.getpid() % 251, np.uint8)

    def decode(self) -> None: ...

    def sleep(self) -> None:
        time.sleep(60)

    def spin(self) -> None:
        while True:
            sum(range(10_000))

    def abort(self) -> None:
        os.abort()

    def segfault(self) -> None:
        ctypes.string_at(0)

    def allocate(self) -> None:
        np.ones(2**29, np.uint8)

    def be_killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self) -> None:
        raise imaging.BadImage("the PNG is damaged: a test says so")

    def fail(self) -> None:
        raise ZeroDivisionError("a bug of ours")
