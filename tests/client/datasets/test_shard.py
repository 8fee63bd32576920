"""with_retries: attempts at a shard whose engine fails."""

import pytest
from channeltok import Overloaded, Unavailable
from channeltok.datasets import SourceError
from channeltok.datasets.destination import Entry
from channeltok.datasets.shard import MAX_ATTEMPTS, with_retries

ENTRY = Entry("source", "identity", rows=1)
DOWN = Unavailable("UNAVAILABLE", "down")


class Attempts:
    """Fails with each of `errors` in turn, then succeeds; records failures and waits."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.failures: list[tuple[str, bool]] = []
        self.waits: list[float] = []

    def run(self) -> tuple[Entry | None, str]:
        return with_retries(
            self._attempt, lambda reason, again: self.failures.append((reason, again)), self._sleep
        )

    def _attempt(self, number: int) -> Entry:
        if number < len(self._errors):
            raise self._errors[number]
        return ENTRY

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.mark.parametrize("error", [DOWN, OSError("disk")])
def test_with_retries_backs_off_and_succeeds(error: Exception) -> None:
    attempts = Attempts(error, error)
    assert attempts.run() == (ENTRY, "")
    assert attempts.failures == [(str(error), True)] * 2
    assert attempts.waits == [1.0, 2.0]


def test_with_retries_gives_up_after_the_last_attempt() -> None:
    attempts = Attempts(*[DOWN] * MAX_ATTEMPTS)
    assert attempts.run() == (None, str(DOWN))
    assert attempts.failures[-1] == (str(DOWN), False)
    assert len(attempts.waits) == MAX_ATTEMPTS - 1


def test_with_retries_waits_as_long_as_the_service_asks() -> None:
    attempts = Attempts(Overloaded("OVERLOADED", "full", retry_after=7.5))
    assert attempts.run() == (ENTRY, "")
    assert attempts.waits == [7.5]


def test_with_retries_does_not_retry_an_unreadable_source() -> None:
    attempts = Attempts(SourceError("damaged"))
    assert attempts.run() == (None, "damaged")
    assert attempts.failures == [("damaged", False)]


def test_with_retries_stops_when_sleep_returns_true() -> None:
    def attempt(number: int) -> Entry:
        assert number == 0
        raise DOWN

    assert with_retries(attempt, sleep=lambda seconds: True) == (None, str(DOWN))


def test_with_retries_raises_other_errors() -> None:
    with pytest.raises(KeyError):
        Attempts(KeyError("bug")).run()
