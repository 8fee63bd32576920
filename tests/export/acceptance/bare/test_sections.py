"""Sections isolate failures and time-outs, and write the report after each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.acceptance.bare.sections import Sections
from export.acceptance.report import Report
from loadtest.harness.service_process import ROOT, python_path


def fail() -> None:
    raise RuntimeError("no such kernel")


def read(folder: Path) -> str:
    return (folder / "report.md").read_text()


def test_sections_report_a_failure_and_continue(tmp_path: Path) -> None:
    report = Report()
    sections = Sections(report, tmp_path, 60)
    sections.section("First", lambda: report.add("one"))
    sections.section("Second", fail)
    assert "RuntimeError: no such kernel" in read(tmp_path)
    sections.section("Third", lambda: report.add("three"))
    sections.close()
    written = read(tmp_path)
    assert "\none\n" in written
    assert "\nthree\n" in written
    assert "- failed: Second: RuntimeError: no such kernel" in written
    assert sections.skipped == []


def test_sections_write_the_report_after_each(tmp_path: Path) -> None:
    report = Report()
    sections = Sections(report, tmp_path, 60)
    sections.section("First", lambda: report.add("one"))
    assert "\none\n" in read(tmp_path)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sections.section("Second", interrupted)
    assert "\none\n" in read(tmp_path)


def test_attempt_isolates_a_failing_part(tmp_path: Path) -> None:
    sections = Sections(Report(), tmp_path, 60)
    done: list[str] = []

    def work() -> None:
        assert sections.attempt("one", lambda: done.append("one"), 10)
        assert not sections.attempt("two", fail, 10)
        assert sections.attempt("three", lambda: done.append("three"), 10)

    sections.section("All", work)
    assert done == ["one", "three"]
    assert sections.failed == ["two: RuntimeError: no such kernel"]


def test_close_lists_parts_without_time(tmp_path: Path) -> None:
    sections = Sections(Report(), tmp_path, 0)
    sections.section("Speed", fail)
    sections.close()
    assert sections.failed == []
    assert "- not run: Speed: no time was left" in read(tmp_path)


def test_instant_section_runs_when_the_time_is_over(tmp_path: Path) -> None:
    report = Report()
    sections = Sections(report, tmp_path, 0)
    sections.section("Summary", lambda: report.add("one"), instant=True)
    assert "\none\n" in read(tmp_path)
    assert sections.skipped == []


def test_attempt_interrupts_a_slow_part_that_catches_the_exception(tmp_path: Path) -> None:
    """In a process of its own: a signal to one that has run many libraries may crash it."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.slow_part", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **python_path(str(ROOT))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stdout) == (0, "compiled: stopped after 0 s\n"), run.stderr


def test_close_says_when_every_part_completed(tmp_path: Path) -> None:
    sections = Sections(Report(), tmp_path, 60)
    sections.section("First", lambda: None)
    sections.close()
    assert "None: every part completed." in read(tmp_path)
