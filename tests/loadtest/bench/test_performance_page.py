"""docs/performance.md, rendered from the newest runs, and recording a run."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
from PIL import Image

from loadtest.bench import history, performance_page
from tests.support.running import ROOT


@pytest.fixture(autouse=True)
def copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that recording writes to instead of the repository."""
    shutil.copy(ROOT / history.HISTORY, tmp_path / "history.csv")
    monkeypatch.setattr(history, "HISTORY", tmp_path / "history.csv")
    return tmp_path


def _report(folder: Path, figures: dict[str, object], mtime: float | None = None) -> None:
    path = folder / "bench-workers.json"
    path.write_text(json.dumps(figures))
    if mtime is not None:
        os.utime(path, (mtime, mtime))


def test_the_page_shows_what_is_recorded() -> None:
    records = performance_page.read()
    assert (ROOT / performance_page.PAGE).read_text() == performance_page.render(records)


def test_a_report_replaces_an_older_run_of_its_benchmark_alone(copies: Path) -> None:
    records = performance_page.read()
    records["workers"] = replace(records["workers"], date="2026-01-01")
    _report(copies, {"encode_w1_per_second": 1.5})
    newest = performance_page.record(copies, records)
    assert newest["workers"].figures == {"encode_w1_per_second": 1.5}
    assert newest["workers"].date > "2026-01-01"
    assert newest["workers"].features in history.COLOURS
    assert newest["workers"].machine
    assert {**newest, "workers": None} == {**records, "workers": None}


def test_a_report_older_than_the_recorded_run_is_left_out(copies: Path) -> None:
    records = performance_page.read()
    _report(copies, {"encode_w1_per_second": 1.5}, mtime=0)
    assert performance_page.record(copies, records) == records


def test_ratios_of_a_new_report_join_the_history_once(copies: Path) -> None:
    records = performance_page.read()
    before = history.read(history.HISTORY)
    _report(copies, {"generate_served_over_graph": 1.234, "generate_graph_seconds": 3.0})
    recorded = performance_page.record(copies, records)
    performance_page.record(copies, recorded)
    *others, added = history.read(history.HISTORY)
    assert others == [
        one
        for one in before
        if (one.date, one.machine, one.figure) != (added.date, added.machine, added.figure)
    ]
    assert (added.figure, added.value) == ("generate_served_over_graph", 1.23)
    history.draw(history.read(history.HISTORY), copies / "history.png")
    with Image.open(copies / "history.png") as plot:
        assert min(plot.size) > 500


def test_the_page_is_not_written_without_a_figure() -> None:
    records = performance_page.read()
    records["calls"] = replace(records["calls"], figures={})
    with pytest.raises(jinja2.UndefinedError, match="encode_batch_per_second"):
        performance_page.render(records)


def test_history_holds_only_ratios_that_are_plotted() -> None:
    assert {entry.figure for entry in history.read(history.HISTORY)} <= set(history.RATIOS)
