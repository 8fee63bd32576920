"""Work on items in threads, ahead of the one who takes the results in order."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_AHEAD_BYTES = 64 * 2**20


def read_ahead(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    threads: int,
    weigh: Callable[[Item], int] = lambda item: 0,
) -> Generator[Result, None, None]:
    """Yield `work(item)` of each item, in order; works on up to `threads` of them at once.

    Args:
        items: read in the caller's thread.
        work: called in daemon threads, which never keep the process from ending.
        threads: at least 1.
        weigh: bytes of an item; results beyond MAX_AHEAD_BYTES wait.

    Raises:
        Exception: what `work` raised, in the place of its result.
    """
    jobs: SimpleQueue[tuple[Future[Result], Item] | None] = SimpleQueue()

    def work_on_jobs() -> None:
        while (job := jobs.get()) is not None:
            future, item = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work(item))
            except BaseException as error:
                future.set_exception(error)

    ahead: deque[tuple[Future[Result], int]] = deque()
    started = weight = 0
    try:
        for item in items:
            more = weigh(item)
            while ahead and (len(ahead) >= 2 * threads or weight + more > MAX_AHEAD_BYTES):
                future, less = ahead.popleft()
                yield future.result()
                weight -= less
            if started < threads:
                started += 1
                threading.Thread(target=work_on_jobs, name="read-ahead", daemon=True).start()
            future = Future()
            ahead.append((future, more))
            weight += more
            jobs.put((future, item))
        while ahead:
            yield ahead.popleft()[0].result()
    finally:
        for future, _ in ahead:
            future.cancel()
        for _ in range(started):
            jobs.put(None)
