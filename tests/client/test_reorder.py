"""Window: results in the order of the source, timeouts, and the errors that end a stream. Outbox:
what a new call sends again."""

import queue

import pytest
from channeltok import DeadlineExceeded, InternalError, Overloaded, Unavailable
from channeltok._channel import MAX_ATTEMPTS
from channeltok._reorder import CallEnded, Event, Outbox, Reply, Sent, SourceEnded, Window


class Clock:
    """Seconds that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def window(*sent: int, clock: Clock | None = None, retries: bool = False) -> Window[str]:
    window: Window[str] = Window(10.0, retries, clock or Clock())
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


DOWN = CallEnded(Unavailable("UNAVAILABLE", "going down"))


def test_window_asks_for_another_call_until_several_brought_no_reply() -> None:
    stream = window(0, 1, retries=True)
    delays = [stream.delay(DOWN) for _ in range(MAX_ATTEMPTS)]
    assert delays[-1] is None
    waited = [delay for delay in delays if delay is not None]
    assert len(waited) == MAX_ATTEMPTS - 1
    assert waited == sorted(waited)
    assert 0.1 < waited[0] < 0.3
    with pytest.raises(Unavailable, match="going down"):
        stream.take(DOWN)


def test_window_counts_calls_anew_after_a_reply() -> None:
    stream = window(*range(9), retries=True)
    for number in range(9):
        assert stream.delay(DOWN) is not None
        assert stream.delay(DOWN) is not None
        stream.take(Reply(number, "a"))


def test_window_waits_as_long_as_a_refusal_says() -> None:
    refused = CallEnded(Overloaded("OVERLOADED", "full", 1.5))
    assert window(0, retries=True).delay(refused) == 1.5


@pytest.mark.parametrize(
    "event",
    [
        CallEnded(InternalError("INTERNAL", "bug")),
        CallEnded(Overloaded("OVERLOADED", "later than the timeout", 10.0)),
        Reply(0, "a"),
        SourceEnded(None),
        Sent(1),
    ],
)
def test_window_asks_for_no_other_call_where_it_is_of_no_use(event: Event[str]) -> None:
    assert window(0, retries=True).delay(event) is None


def test_window_asks_for_no_other_call_without_retries_or_work() -> None:
    assert window(0).delay(DOWN) is None
    answered = window(0, retries=True)
    answered.take(Reply(0, "a"))
    answered.take(SourceEnded(None))
    assert answered.delay(DOWN) is None
    answered.take(CallEnded(None))
    assert answered.finished


def test_window_that_times_out_says_why_the_latest_call_ended() -> None:
    clock = Clock()
    stream = window(0, clock=clock, retries=True)
    assert stream.delay(DOWN) is not None
    clock.now = 10.0
    with pytest.raises(Unavailable, match="going down"):
        stream.time_out()


def taken(requests: "queue.SimpleQueue[str | None]") -> list[str | None]:
    return [requests.get_nowait() for _ in range(requests.qsize())]


def test_outbox_sends_again_what_has_no_answer_and_nothing_else() -> None:
    outbox: Outbox[queue.SimpleQueue[str | None]] = Outbox(queue.SimpleQueue)
    first = outbox.next_call()
    for number, request in enumerate("abcd"):
        outbox.send(number, request)
    assert taken(first) == ["a", "b", "c", "d"]
    outbox.forget(2)
    outbox.forget(0)
    second = outbox.next_call()
    assert taken(first) == [None]  # its requests end
    assert taken(second) == ["b", "d"]
    outbox.send(4, "e")
    assert taken(first) == []
    assert taken(second) == ["e"]
    outbox.close()
    assert taken(second) == [None]
    for number in (1, 3):
        outbox.forget(number)
    assert taken(outbox.next_call()) == ["e", None]
