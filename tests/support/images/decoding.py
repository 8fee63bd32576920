"""Decode an image in a process of its own, and measure what that takes."""

import multiprocessing
import re
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import imaging
from imaging import BadImage

SLACK = 4 * 2**20  # for what Python and the allocator keep


class Measured(NamedTuple):
    """open_seconds, decode_seconds: processor time. taken: bytes, at the peak, beyond the file.
    announced: what ImageFile.memory said. error: why it was refused, if it was."""

    open_seconds: float
    decode_seconds: float
    taken: int
    announced: int
    error: str


def measure(make: Callable[[], bytes | imaging.Pixels], size: int = 128) -> Measured:
    """Decode the file that `make` returns to a square of `size` pixels."""
    context = multiprocessing.get_context("fork")
    results, sender = context.Pipe(duplex=False)
    process = context.Process(target=_decode, args=(make, size, sender))
    process.start()
    sender.close()
    try:
        assert results.poll(60), "neither decoded nor refused"
        return Measured(*results.recv())
    finally:
        process.kill()
        process.join()


def _decode(make: Callable[[], bytes | imaging.Pixels], size: int, results: Connection) -> None:
    data = make()
    decode_seconds, taken, announced, error = 0.0, 0, 0, ""
    started = time.process_time()
    try:
        file = imaging.open_image(data)
    except BadImage as refusal:
        open_seconds, error = time.process_time() - started, str(refusal)
    else:
        open_seconds = time.process_time() - started
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
        before, announced = _memory("VmRSS"), file.memory(size)
        try:
            file.pixels(size)
        except BadImage as refusal:
            error = str(refusal)
        decode_seconds = time.process_time() - started - open_seconds
        taken = _memory("VmHWM") - before
    results.send((open_seconds, decode_seconds, taken, announced, error))


def _memory(field: str) -> int:
    """Bytes: VmRSS is what this process has, VmHWM the most it had."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
