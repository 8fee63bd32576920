"""The plot of the benchmarks' ratios over time, and adding a run to it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from loadtest.bench import history


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that the command writes to instead of the repository."""
    shutil.copy(history.HISTORY, tmp_path / "history.csv")
    monkeypatch.setattr(history, "HISTORY", tmp_path / "history.csv")
    monkeypatch.setattr(history, "IMAGE", tmp_path / "history.png")
    return tmp_path


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["history", *arguments])
    history.main()


def test_history_adds_the_ratios_of_a_report(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = history.read(history.HISTORY)
    report = copies / "report.json"
    report.write_text(json.dumps({"generate_served_over_graph": 1.234, "generate_seconds": 3.0}))
    _run(monkeypatch, "--add", str(report), "--machine", "AVX2")
    *others, added = history.read(history.HISTORY)
    assert others == before
    assert (added.machine, added.figure, added.value) == (
        "AVX2",
        "generate_served_over_graph",
        1.23,
    )
    with Image.open(history.IMAGE) as plot:
        assert min(plot.size) > 500


def test_history_holds_only_ratios_that_are_plotted() -> None:
    assert {entry.figure for entry in history.read(history.HISTORY)} <= set(history.RATIOS)


def test_history_wants_the_machine_of_a_report(
    copies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _run(monkeypatch, "--add", "report.json")
    assert "--add and --machine go together" in capsys.readouterr().err
