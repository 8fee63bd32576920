"""The shards that are still to do, and when each may be tried (again)."""

import heapq
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from channeltok.datasets.sources import Shard


@dataclass(order=True)
class Job:
    """A shard, and how often it was tried. Ordered by time, then by place in the source."""

    due: float
    number: int
    shard: Shard = field(compare=False)
    attempt: int = field(default=0, compare=False)


class ShardQueue:
    """Hands shards to threads. A shard that must wait holds up no thread while others are due."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._jobs = [Job(0.0, number, shard) for number, shard in enumerate(shards)]
        self._unsettled = len(self._jobs)
        self._stopped = False
        self._held_until = 0.0
        self._changed = threading.Condition()

    def take(self) -> Job | None:
        """The next job, once it is due; None when all are settled or the queue is stopped."""
        with self._changed:
            while not self._stopped and self._unsettled:
                if not self._jobs:
                    self._changed.wait()
                    continue
                wait = max(self._jobs[0].due, self._held_until) - time.monotonic()
                if wait <= 0:
                    return heapq.heappop(self._jobs)
                self._changed.wait(wait)
            return None

    def put_back(self, job: Job, delay: float, hold_all: bool = False) -> None:
        """Try a job again in `delay` seconds; with `hold_all` no other comes before, either."""
        with self._changed:
            job.due = time.monotonic() + delay
            if hold_all:
                self._held_until = max(self._held_until, job.due)
                job.due = 0.0  # first of all then, not after shards that nobody has touched
            heapq.heappush(self._jobs, job)
            self._changed.notify_all()

    def settle(self) -> None:
        """A job that was taken is finished, or given up."""
        with self._changed:
            self._unsettled -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """No more jobs."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait_until_settled(self, seconds: float) -> bool:
        """Wait at most so long; True when all jobs are settled, or the queue is stopped."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped or not self._unsettled, seconds)
