"""Rows and their limits, aborted attacks, and the reports written of them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.chaos import report
from loadtest.chaos.attack import Attack, Row, tally


def test_row_holds_at_its_limit_and_on_the_right_side_of_it() -> None:
    assert Row("a", "", 5, 5).holds
    assert not Row("a", "", 5.1, 5).holds
    assert Row("a", "", 5, 5, at_least=True).holds
    assert not Row("a", "", 4.9, 5, at_least=True).holds
    assert Row("a", "", 1e9).holds  # without a limit


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_row_without_a_finite_value_does_not_hold(value: float) -> None:
    row = Row("a", "seconds", value, 5, unit=" s")
    assert not row.holds
    assert row.cells()[1:] == ("not measured" if math.isnan(value) else "never", "<= 5 s", "NO")


def test_attack_that_raises_keeps_its_rows_and_does_not_hold() -> None:
    def run(short: bool) -> Iterator[Row]:
        yield Row("first", "", 1, 1)
        raise RuntimeError("the service did not start")

    rows = list(Attack("broken", "", run).rows(short=True))
    assert [row.name for row in rows] == ["first", "broken_aborted", "broken_seconds"]
    assert [row.holds for row in rows] == [True, False, True]
    assert "did not start" in rows[1].note


def test_tally_lists_the_most_frequent_first() -> None:
    assert tally(["A", "B", "B"]) == "2 B, 1 A"


def test_report_page_and_figures_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "FIGURES", tmp_path / "chaos.json")
    monkeypatch.setattr(report, "PAGE", tmp_path / "reliability.md")
    results = [
        (
            Attack("kill", "kill -9", lambda short: iter(())),
            [Row("a", "hung", 3, 0), Row("b", "calls", 900), Row("c", "s", math.inf, 5)],
        )
    ]
    report.write_figures(results)
    report.write_page(results)
    assert json.loads((tmp_path / "chaos.json").read_text()) == {"a": 3, "b": 900, "c": None}
    page = (tmp_path / "reliability.md").read_text()
    assert "## kill -9\n" in page
    assert "| hung | 3 | <= 0 | NO |" in page
    assert "**0 of 2 limits hold.**" in page
    assert report.machine() in page
