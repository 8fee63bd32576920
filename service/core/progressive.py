"""Events of a call that decodes several prefixes: made ahead of their reader, who may be slow."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Self

from channeltok import Preview

from service.core.call_record import Stages
from service.core.memory import Reservation
from service.core.registry import ServedTokenizer


@dataclass(frozen=True)
class DecodeFinished:
    """The last event. stages: of all prefixes. engine: see Model.engine."""

    tokenizer: ServedTokenizer
    stages: Stages
    engine: str


DecodeEvent = Preview | DecodeFinished


class DecodeEvents:
    """An asynchronous iterator of events, to be closed; closing it stops the work.

    It is a Holder (service/core/memory.py) of the memory of the images that were not yet read.
    """

    waiting = False

    def __init__(
        self,
        work: Callable[[Reservation, Callable[[DecodeEvent], None]], Coroutine[None, None, None]],
        memory: Reservation,
    ) -> None:
        """work: makes the events; takes `memory`, which it grows, and what to call with each.

        memory: released here.
        """
        self._work = work
        self._memory = memory
        self._events: asyncio.Queue[DecodeEvent | None] = asyncio.Queue()  # None: no more
        self._running: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """Bytes reserved now."""
        return self._memory.size

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DecodeEvent:
        """Raises what the work raised, after the events before it."""
        if self._running is None:
            work = self._work(self._memory, self._events.put_nowait)
            self._running = asyncio.create_task(work)
            self._running.add_done_callback(lambda _: self._events.put_nowait(None))
        event = await self._events.get()
        if event is None:
            self._events.put_nowait(None)
            await self._running
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Stop the work and release its memory."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._memory.release()
