"""Rate limit: images per second and client, as one token bucket per client."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar

from service.errors import RateLimited

MAX_CLIENTS = 10_000  # buckets kept, about 400 bytes each

caller: ContextVar[str] = ContextVar("caller", default="")
"""Name of the current call's caller; authentication sets it (service/security/auth.py)."""


class _Bucket:
    """Holds up to `burst` images and is refilled with `rate` images per second."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._level, self._filled_at = float(burst), clock()
        self.queue = asyncio.Lock()  # lets waiting calls pass one after another

    def take(self) -> float:
        """Take one image out and return 0, or return the seconds until there is one."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


class RateLimit:
    """`rate` images per second and client after a burst of `burst`. Each worker counts its own."""

    def __init__(
        self,
        rate: float | None,
        burst: int,
        *,
        max_clients: int = MAX_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """rate: None for no limit."""
        self._rate, self._burst, self._max_clients = rate, burst, max_clients
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    async def take(self, *, wait: bool) -> None:
        """Count one image of the current caller.

        Over the limit it raises RateLimited or, with `wait`, returns when it is the image's turn.
        """
        if self._rate is None:
            return
        bucket = self._bucket(caller.get(), self._rate)
        seconds = bucket.take()
        if seconds and not wait:
            raise RateLimited(
                f"more than {self._rate:g} images a second: try again in {seconds:.2g} s", seconds
            )
        if seconds:
            async with bucket.queue:
                while seconds := bucket.take():  # noqa: ASYNC110
                    await asyncio.sleep(seconds)

    def _bucket(self, client: str, rate: float) -> _Bucket:
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(rate, self._burst, self._clock)
            if len(self._buckets) > self._max_clients:
                # Drop the least recently used bucket: it is the likeliest to be full again.
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        return bucket
