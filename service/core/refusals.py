"""Refusals: the pace at which callers are refused, so that refusing costs less than working.

A client that ignores Retry-After and calls again at once would be refused thousands of times a
second, and take the processor from the calls that were accepted. The first refusals of a second are
answered at once, so that a load balancer can try elsewhere. The others are held back, at most for
the retry time that they carry: the client then waits as it was asked to.

See docs/decisions/0050-refusals.md.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

from service.errors import Overloaded, RateLimited

PER_SECOND = 100.0
AT_ONCE = 50  # refusals after a quiet time that are not held back
TIME_SHARE = 0.5  # of the time left to the caller's deadline, at most


class Refusals:
    """Holds refusals back beyond `PER_SECOND`. One for all calls of a process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken_until = 0.0  # when the answers given so far end at the allowed pace
        self._closed = asyncio.Event()

    def close(self) -> None:
        """Hold nothing back from now on: the service is stopping."""
        self._closed.set()

    async def hold(self, error: Exception, time_left: float | None = None) -> None:
        """Wait for the turn of this refusal; other errors have none.

        time_left: seconds to the caller's deadline.
        """
        seconds = self._delay(error, time_left)
        if seconds > 0:
            error.__traceback__ = None  # its frames hold the call's image
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), seconds)

    def _delay(self, error: Exception, time_left: float | None) -> float:
        if not isinstance(error, Overloaded | RateLimited) or error.retry_after is None:
            return 0.0
        now, longest = self._clock(), error.retry_after
        if time_left is not None:
            longest = min(longest, TIME_SHARE * time_left)
        turn = max(self._taken_until, now - AT_ONCE / PER_SECOND) + 1 / PER_SECOND
        # Those that may not be held back that long do not delay the ones after them.
        self._taken_until = min(turn, max(self._taken_until, now + longest))
        return min(turn - now, longest)
