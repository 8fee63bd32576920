"""Sections of a report under a time limit: one that fails or runs out of time costs no other."""

import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from export.acceptance.report import Report

MIN_SECONDS = 1.0  # nothing starts with less time left


class Sections:
    """A report that is written to `folder` after each section.

    seconds: time limit for all sections together, from now on.
    time_factor: multiplies the limits of single parts, for slower machines.
    failed, skipped: parts that failed or ran out of time, a sentence each.
    """

    def __init__(
        self, report: Report, folder: Path, seconds: float, time_factor: float = 1.0
    ) -> None:
        self.report, self.folder, self.time_factor = report, folder, time_factor
        self.end = time.monotonic() + seconds
        self.failed: list[str] = []
        self.skipped: list[str] = []

    @property
    def seconds_left(self) -> float:
        """Time left for all sections; negative when it is over."""
        return self.end - time.monotonic()

    def section(self, title: str, work: Callable[[], None], *, instant: bool = False) -> None:
        """Run `work` under a heading and write the report, even if it fails.

        An exception goes to the report. When the time is over, only `instant` work runs.
        """
        self.report.add("", f"## {title}", "")
        started = time.monotonic()
        if instant:
            self.end = max(self.end, time.monotonic() + 2 * MIN_SECONDS)
        self.attempt(title, work, None)
        self.report.add("", f"({time.monotonic() - started:.1f} s)")
        self.report.write(self.folder)

    def attempt(self, name: str, work: Callable[[], None], max_seconds: float | None) -> bool:
        """Run a part of a section. Returns whether it completed; otherwise the report says why.

        max_seconds: times `time_factor` the limit after which it is interrupted, or earlier at the
        end of all sections' time. None: only its own parts are limited.
        """
        if self.seconds_left < MIN_SECONDS:
            self.skipped.append(f"{name}: no time was left")
            return False
        limit = TimeLimit(
            None if max_seconds is None else min(max_seconds * self.time_factor, self.seconds_left)
        )
        try:
            with limit:
                work()
        except Exception as error:
            if limit.expired:  # libraries may wrap the TimeoutError
                self.skipped.append(f"{name}: stopped after {limit.seconds:.0f} s")
                return False
            self.failed.append(f"{name}: {type(error).__name__}: {str(error)[:500]}")
            self.report.add("", f"{name} failed:", "", "```", traceback.format_exc(), "```", "")
        else:
            return True
        return False

    def close(self) -> None:
        """List failed and skipped parts, and write the report a last time."""
        self.report.add("", "## Failed and skipped parts", "")
        self.report.add(*(f"- failed: {part}" for part in self.failed))
        self.report.add(*(f"- not run: {part}" for part in self.skipped))
        if not self.failed and not self.skipped:
            self.report.add("None: every part completed.")
        self.report.write(self.folder)


class TimeLimit:
    """Raises TimeoutError in a block after `seconds`, as soon as Python code runs again.

    seconds: None = never. expired: whether it was raised. For the main thread only; not nestable.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.expired = False

    def __enter__(self) -> None:
        if self.seconds is not None:
            self.before = signal.signal(signal.SIGALRM, self._interrupt)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        if self.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.before)

    def _interrupt(self, *_: object) -> None:
        self.expired = True
        raise TimeoutError(f"stopped after {self.seconds:.0f} s")
