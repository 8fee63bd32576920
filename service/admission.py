"""How many pictures are inside the service at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import Overloaded

RETRY_AFTER_SECONDS = 1.0


class Admission:
    """`limit` permits, one per picture. A single call that finds none is refused at once: a queue would only hide the overload.

    A stream waits instead, which slows its sender down; that is what its flow control is for.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._permits = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def permit(self, *, wait: bool) -> AsyncIterator[None]:
        """Hold one permit. Raises Overloaded when none is free and `wait` is False."""
        if not wait and self._permits.locked():
            raise Overloaded(f"{self.limit} pictures are in the service, its limit: try again", RETRY_AFTER_SECONDS)
        async with self._permits:
            yield
