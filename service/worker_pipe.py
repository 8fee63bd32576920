"""Pipe from a worker process to its parent (`--workers`): one JSON line per event.

    {"event": "alive"}                                           every half second, from the start
    {"event": "ready"}                                           once, when the worker serves calls
    {"event": "suspect", "model": "demo_encode", "sent": 12.5}   an engine failed a caller

The worker inherits the write end; the private environment variable `PIPE` has its number. Engines
are healed in the parent, so it must know which ones fail the worker's callers.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Self

from service.triton.health import EngineHealth

PIPE = "_CHANNELTOK_WORKER_PIPE"
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Event:
    """model and sent are of `suspect` only. sent: of the failed request, on time.perf_counter."""

    event: Literal["alive", "ready", "suspect"]
    model: str | None = None
    sent: float | None = None


class ParentPipe:
    """The worker's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def from_environment(cls) -> Self | None:
        """None where this process is not a worker."""
        descriptor = os.environ.get(PIPE)
        return None if descriptor is None else cls(int(descriptor))

    def send(self, event: Event) -> None:
        fields = {name: value for name, value in vars(event).items() if value is not None}
        with contextlib.suppress(BrokenPipeError):  # the parent is stopping, and this worker soon
            os.write(self._descriptor, json.dumps(fields).encode() + b"\n")

    async def report(self, health: EngineHealth, seconds: float = REPORT_SECONDS) -> None:
        """Send a sign of life and the new suspects every `seconds`, until cancelled."""
        sent: dict[str, float] = {}
        while True:
            self.send(Event("alive"))
            for model, at in health.suspected_at.items() - sent.items():
                self.send(Event("suspect", model, at))
            sent = dict(health.suspected_at)
            await asyncio.sleep(seconds)


async def read_events(descriptor: int, patience: float) -> AsyncGenerator[Event, None]:
    """Events of a worker until it ends; the parent's end of the pipe is closed then.

    Raises TimeoutError when the worker, once it has sent something, is silent for `patience`
    seconds twice in a row: this process itself may have stood still during the first.
    """
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    timeout = None  # to import and connect takes its time
    silences = 0
    try:
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), timeout)
            except TimeoutError:
                silences += 1
                if silences == 2:
                    raise
                continue
            if not line.endswith(b"\n"):  # the end, perhaps in the middle of a line
                return
            timeout, silences = patience, 0
            yield Event(**json.loads(line))
    finally:
        transport.close()
