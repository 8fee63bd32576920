"""What is asked of an engine is not cancelled when its caller leaves, because Triton may die of it (docs/decisions/0033-cancelled-calls.md)."""

import asyncio
from collections.abc import Callable
from typing import Any

ABANDONED_TIMEOUT = 60.0  # only what is not answered for so long after is given up

UnderWay = Callable[
    [asyncio.Task[Any]], None
]  # is given work in the engine, which goes on when its caller has left


def nobody(work: asyncio.Task[Any]) -> None:
    """For who does not want to know what is under way."""


def leave(work: asyncio.Task[Any]) -> None:
    """To be done with nobody waiting for it."""
    if not work.done():
        timer = asyncio.get_running_loop().call_later(ABANDONED_TIMEOUT, work.cancel)
        work.add_done_callback(lambda _: timer.cancel())
