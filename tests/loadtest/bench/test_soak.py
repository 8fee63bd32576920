"""What a soak calls wrong; a short one of the real service; and what makes several targets one."""

import contextlib
import json
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.bench import soak
from loadtest.bench.capacity import Leg
from loadtest.bench.soak import Minute, wrong
from loadtest.load.open_loop import Mixed

pytestmark = pytest.mark.bench
RIGHT = Minute(Leg(100, 100, 0.01, 0.03, 0.05, 1.0, 0.0), 500_000_000, 0.0)


def with_leg(**changes: float) -> Minute:
    return replace(RIGHT, leg=replace(RIGHT.leg, **changes))


def test_what_stays_is_right() -> None:
    assert wrong([RIGHT, replace(RIGHT, memory=515_000_000), with_leg(p99=0.054)]) == []


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (lambda: with_leg(good_share=0.999), "minute 4: 0.100% of the calls failed"),
        (lambda: with_leg(p99=0.06), "p99 went from 50.0 to 60.0 ms"),
    ],
)
def test_what_goes_wrong_is_said(last: Callable[[], Minute], sentence: str) -> None:
    assert wrong([RIGHT] * 3 + [last()]) == [sentence]


@pytest.mark.parametrize("factor", [1.06, 0.9])
def test_memory_that_grows_or_falls_is_not_flat_and_one_high_minute_is_no_trend(
    factor: float,
) -> None:
    other = replace(RIGHT, memory=round(RIGHT.memory * factor))
    assert wrong([RIGHT, RIGHT, other, other]) == [f"memory changed by {factor - 1:+.1%}"]
    assert wrong([RIGHT, RIGHT, RIGHT, other]) == []


def test_a_short_soak_is_run_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "REPORT", tmp_path / "soak.json")
    monkeypatch.setattr(sys, "argv", ["soak", "--rate", "20", "--minutes", "2", "--seconds", "1.5"])
    with contextlib.suppress(SystemExit):  # p99 and memory of a second say nothing
        soak.main()
    figures = json.loads(soak.REPORT.read_text())
    assert [minute["leg"]["good_share"] for minute in figures["minutes"]] == [1, 1, 1]
    assert all(minute["memory"] > 1e8 for minute in figures["minutes"])
    assert "  memory MB" in capsys.readouterr().out


@dataclass(frozen=True)
class Noted:
    """Keeps the numbers it is called with."""

    numbers: list[int] = field(default_factory=list)
    good: str = "OK"

    @asynccontextmanager
    async def connected(self) -> Any:
        async def call(number: int) -> str:
            self.numbers.append(number)
            return self.good

        yield call


async def test_mixed_targets_are_called_by_turns_each_with_its_own_count() -> None:
    one, other = Noted(), Noted()
    mixed = Mixed((one, other))  # type: ignore[arg-type]
    async with mixed.connected() as call:
        assert [await call(number) for number in range(5)] == ["OK"] * 5
    assert (one.numbers, other.numbers) == ([0, 1, 2], [0, 1])
