"""How many images a second one client may send: a token bucket for each."""

import asyncio
import time
from collections import OrderedDict
from contextvars import ContextVar

from service.errors import RateLimited

MAX_CLIENTS = 10_000  # buckets kept, about 400 bytes each

caller: ContextVar[str] = ContextVar("caller", default="")
"""Name of the current call's caller; authentication sets it (service/security/auth.py)."""


class _Bucket:
    """Holds up to `burst` images and is refilled with `rate` a second."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._level, self._filled = float(burst), time.monotonic()
        self.queue = asyncio.Lock()  # those who wait, one after another

    def take(self) -> float:
        """0 when an image could be taken out, else the seconds until one can."""
        now = time.monotonic()
        self._level = min(self._burst, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


class RateLimit:
    """`rate` images a second and client, after a burst of `burst`; None: no limit. A worker process counts what it serves itself."""

    def __init__(self, rate: float | None, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    async def take(self, *, wait: bool) -> None:
        """One image of the present caller. Raises RateLimited, or with `wait` comes back when it is its turn."""
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
            bucket = self._buckets[client] = _Bucket(rate, self._burst)
            if len(self._buckets) > MAX_CLIENTS:
                self._buckets.popitem(
                    last=False
                )  # the one that was silent for longest: its bucket is the likeliest to be full again
        else:
            self._buckets.move_to_end(client)
        return bucket
