"""Window: results in the order of the source, timeouts, and the errors that end a stream."""

import pytest
from channeltok import DeadlineExceeded, InternalError, Unavailable
from channeltok._reorder import CallEnded, Reply, Sent, SourceEnded, Window


class Clock:
    """Seconds that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def window(*sent: int, clock: Clock | None = None) -> Window[str]:
    window: Window[str] = Window(10.0, clock or Clock())
    for number in sent:
        assert window.take(Sent(number)) == []
    return window


def test_window_holds_early_results_back() -> None:
    stream = window(0, 1, 2)
    assert stream.take(Reply(1, "b")) == []
    assert stream.take(Reply(0, "a")) == ["a", "b"]
    assert stream.take(Reply(2, "c")) == ["c"]


@pytest.mark.parametrize("number", [0, 7])
def test_window_refuses_a_reply_that_is_not_in_flight(number: int) -> None:
    stream = window(0)
    stream.take(Reply(0, "a"))
    with pytest.raises(InternalError, match="not in flight"):
        stream.take(Reply(number, "b"))


def test_window_finishes_when_source_and_call_have_ended() -> None:
    stream = window(0)
    stream.take(SourceEnded(None))
    stream.take(Reply(0, "a"))
    assert not stream.finished
    stream.take(CallEnded(None))
    assert stream.finished


def test_window_raises_the_error_of_the_source_last() -> None:
    stream = window(0)
    stream.take(SourceEnded(KeyError("lost")))
    assert stream.take(Reply(0, "a")) == ["a"]
    with pytest.raises(KeyError):
        stream.take(CallEnded(None))


@pytest.mark.parametrize("error", [None, Unavailable("UNAVAILABLE", "going down")])
def test_window_raises_when_the_call_ends_with_items_in_flight(error: Unavailable | None) -> None:
    with pytest.raises(Unavailable):
        window(0).take(CallEnded(error))


def test_window_waits_without_limit_for_the_source() -> None:
    assert window().remaining() is None


def test_window_counts_its_timeout_from_the_latest_reply() -> None:
    clock = Clock()
    stream = window(0, 1, clock=clock)
    assert stream.remaining() == 10
    clock.now = 4
    assert stream.remaining() == 6
    stream.take(Reply(0, "a"))
    assert stream.remaining() == 10
    clock.now = 15
    assert stream.remaining() == 0
    with pytest.raises(DeadlineExceeded, match="1 items in flight"):
        stream.time_out()
