"""Do something in the middle of a tokenize run."""

import threading

from channeltok.datasets import ProgressListener
from channeltok.datasets.sources import Shard


class After(ProgressListener):
    """Calls `work` once, after so many images; records the failures."""

    def __init__(self, images: int, work: object) -> None:
        self._left, self._work = images, work
        self._lock = threading.Lock()
        self.failures: list[str] = []

    def advance(self, shard: Shard, source_bytes: int, images: int, rejects: int) -> None:
        with self._lock:
            self._left -= images
            if self._left > 0 or self._work is None:
                return
            work, self._work = self._work, None
        assert callable(work)
        work()

    def fail(self, shard: Shard, reason: str, retrying: bool) -> None:
        self.failures.append(reason)
