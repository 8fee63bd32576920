"""retries: what follows from a failure, and one patience for the engine."""

import errno

import pytest
from channeltok import Overloaded, Unavailable
from channeltok.datasets import DestinationError, EngineGone, SourceError
from channeltok.datasets.retries import MAX_ATTEMPTS, Patience, SourceFailed, describe, judge

DOWN = Unavailable("UNAVAILABLE", "down")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> Patience:
    return Patience(60.0, clock)


def _failed_read(cause: Exception) -> SourceFailed:
    error = SourceFailed("shard")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "cause",
    [OSError(errno.EIO, "broken", "a.jpg"), PermissionError("403"), KeyError("bug"), Exception()],
)
def test_a_read_that_failed_is_tried_again_a_few_times(
    cause: Exception, patience: Patience
) -> None:
    verdicts = [judge(_failed_read(cause), n, 0, patience) for n in range(MAX_ATTEMPTS)]
    assert [verdict.retry for verdict in verdicts] == [True, True, True, True, False]
    assert [verdict.delay for verdict in verdicts[:4]] == [1.0, 2.0, 4.0, 8.0]
    assert all(verdict.counts and not verdict.all_wait for verdict in verdicts)


@pytest.mark.parametrize(
    "error", [SourceError("damaged"), DestinationError("full"), ValueError("no such name")]
)
def test_what_would_fail_again_is_not_tried_again(error: Exception, patience: Patience) -> None:
    assert not judge(error, 0, 0, patience).retry


def test_a_value_error_of_a_source_may_pass(patience: Patience) -> None:
    assert judge(_failed_read(ValueError("half a reply")), 0, 0, patience).retry
    assert not judge(_failed_read(SourceError("damaged")), 0, 0, patience).retry


def test_an_engine_that_answers_others_counts_against_the_shard(patience: Patience) -> None:
    with patience.waiting() as wait:
        wait.sent()
        wait.answered()
    verdict = judge(DOWN, 1, 0, patience)
    assert (verdict.retry, verdict.delay, verdict.counts) == (True, 2.0, True)
    assert not judge(DOWN, MAX_ATTEMPTS - 1, 0, patience).retry


def test_an_engine_that_answers_nobody_makes_all_wait(patience: Patience) -> None:
    verdict = judge(DOWN, MAX_ATTEMPTS - 1, 0, patience)
    assert (verdict.retry, verdict.counts, verdict.all_wait) == (True, False, True)


def test_the_wait_is_as_long_as_the_service_asks(patience: Patience) -> None:
    assert judge(Overloaded("OVERLOADED", "full", 7.5), 0, 0, patience).delay == 7.5


def test_patience_ends_when_no_shard_has_an_answer(patience: Patience, clock: Clock) -> None:
    with patience.waiting() as one, patience.waiting() as other:
        one.sent()
        other.sent()
        clock.seconds += 50
        assert patience.check() == 50
        other.answered()
        assert patience.check() == 0
        clock.seconds += 61
        with pytest.raises(EngineGone, match="not answered for 61 s, longer than the patience of"):
            patience.check()


def test_patience_does_not_count_the_time_of_the_source(patience: Patience, clock: Clock) -> None:
    with patience.waiting() as wait:
        wait.sent()
        wait.reading()
        clock.seconds += 1000
        assert patience.check() == 0
        wait.read_all()
        clock.seconds += 3
        assert patience.check() == 3
    assert patience.check() == 0


def test_patience_lasts_over_failures_until_an_answer(patience: Patience, clock: Clock) -> None:
    def fail(seconds: float) -> None:
        with patience.waiting() as wait:
            wait.sent()
            clock.seconds += seconds
            raise DOWN

    for _ in range(3):
        with pytest.raises(Unavailable):
            fail(4)
        clock.seconds += 10
    assert patience.check() == 42
    with patience.waiting() as wait:
        wait.sent()
        wait.answered()
    assert patience.check() == 0
    with pytest.raises(Unavailable):
        fail(0)
    clock.seconds += 61
    with pytest.raises(EngineGone, match="the last failure: UNAVAILABLE: down"):
        patience.check()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_patience_is_more_than_nothing(seconds: float) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Patience(seconds)


def test_errors_are_described_in_one_line() -> None:
    assert describe(OSError(errno.EIO, "Input/output error", "a/b.tar")) == (
        "a/b.tar: Input/output error"
    )
    assert describe(KeyError("bug")) == "KeyError: 'bug'"
    assert describe(RuntimeError()) == "RuntimeError"
    assert describe(RuntimeError("two\n lines")) == "RuntimeError: two lines"
