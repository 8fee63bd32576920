"""The soak's criteria, and a short soak of the real service."""

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.bench import soak
from loadtest.bench.soak import Minute, failures
from loadtest.load.capacity_search import Run

RIGHT = Minute(Run(100, 100, 0.01, 0.03, 0.05, 1.0, 0.0), 500_000_000, 0.0)


def with_run(**changes: float) -> Minute:
    return replace(RIGHT, run=replace(RIGHT.run, **changes))


def test_failures_are_none_within_the_limits() -> None:
    assert failures([RIGHT, replace(RIGHT, memory=515_000_000), with_run(p99=0.054)]) == []


def test_failures_name_failed_calls() -> None:
    bad = with_run(good_share=0.999)
    assert failures([RIGHT] * 3 + [bad]) == ["minute 4: 0.100% of the calls failed"]


def test_failures_name_a_p99_that_grows_but_not_a_single_slow_minute() -> None:
    slow = with_run(p99=0.06)
    assert failures([RIGHT] * 4 + [slow] * 2) == ["p99 went from 50.0 to 60.0 ms"]
    assert failures([RIGHT] * 5 + [slow]) == []
    assert failures([slow] + [RIGHT] * 3 + [slow] * 2) == ["p99 went from 50.0 to 60.0 ms"]


@pytest.mark.parametrize("factor", [1.06, 0.9])
def test_failures_name_lasting_changes_of_memory_but_not_a_single_high_minute(
    factor: float,
) -> None:
    other = replace(RIGHT, memory=round(RIGHT.memory * factor))
    assert failures([RIGHT, RIGHT, other, other]) == [f"memory changed by {factor - 1:+.1%}"]
    assert failures([RIGHT, RIGHT, RIGHT, other]) == []


@pytest.mark.bench
def test_soak_writes_a_report_of_every_minute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "REPORT", tmp_path / "soak.json")
    monkeypatch.setattr(sys, "argv", ["soak", "--rate", "20", "--minutes", "2", "--seconds", "1.5"])
    with contextlib.suppress(SystemExit):  # p99 and memory of a second are not stable
        soak.main()
    figures = json.loads(soak.REPORT.read_text())
    assert [minute["run"]["good_share"] for minute in figures["minutes"]] == [1, 1, 1]
    assert all(minute["memory"] > 1e8 for minute in figures["minutes"])
    assert "  memory MB" in capsys.readouterr().out
