"""How sequences are spread over the threads of a generator's backend."""

import threading
from typing import Any

from export.triton.generator_backend import Scheduler


class _Sequence:
    """What a scheduler reads of a sequence: its rows, two where it is guided."""

    def __init__(self, rows: int) -> None:
        self.rows = [0] * rows


def _put(scheduler: Scheduler, count: int, rows: int = 1) -> list[Any]:
    sequences: list[Any] = [_Sequence(rows) for _ in range(count)]
    for sequence in sequences:
        scheduler.put(sequence)
    return sequences


def test_scheduler_gives_sequences_to_the_thread_with_fewest() -> None:
    scheduler = Scheduler(threads=2, most=4)
    first, second, third = _put(scheduler, 3)
    assert scheduler.take(0) == [first]
    assert scheduler.take(1) == [second, third]
    (fourth,) = _put(scheduler, 1)
    assert scheduler.take(1) == []
    assert scheduler.take(0) == [fourth]


def test_scheduler_lets_sequences_wait_while_all_threads_are_full() -> None:
    scheduler = Scheduler(threads=1, most=2)
    first, second, third, fourth = _put(scheduler, 4)
    assert scheduler.take(0) == [first, second]
    assert scheduler.take(0) == []
    scheduler.release(0, 1)
    assert scheduler.take(0) == [third]
    assert scheduler.stop() == [fourth]
    assert scheduler.take(0) is None


def test_scheduler_counts_the_rows_of_guided_sequences() -> None:
    scheduler = Scheduler(threads=1, most=3)
    guided = _put(scheduler, 2, rows=2)
    (plain,) = _put(scheduler, 1)
    assert scheduler.take(0) == guided[:1]
    assert scheduler.take(0) == []
    scheduler.release(0, 2)
    assert scheduler.take(0) == [guided[1], plain]


def test_scheduler_wakes_a_thread_that_has_nothing_to_do() -> None:
    scheduler, taken = Scheduler(threads=2, most=4), list[Any]()
    idle = threading.Thread(target=lambda: taken.append(scheduler.take(1)))
    idle.start()
    idle.join(0.1)
    assert idle.is_alive()
    first, second = _put(scheduler, 2)
    idle.join(5)
    assert taken == [[first]]
    assert scheduler.take(0) == [second]


def test_scheduler_stops_a_thread_that_has_nothing_to_do() -> None:
    scheduler, taken = Scheduler(threads=1, most=4), list[Any]()
    idle = threading.Thread(target=lambda: taken.append(scheduler.take(0)))
    idle.start()
    assert scheduler.stop() == []
    idle.join(5)
    assert taken == [None]
