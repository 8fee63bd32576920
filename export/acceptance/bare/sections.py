"""The parts of a report, one after the other: one that fails or has no time left costs no other."""

import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from export.acceptance.report import Report

LEAST_SECONDS = 1.0  # with less than this left nothing more is begun


class Sections:
    """A report that grows section by section and is written to `folder` after each.

    seconds: how long all sections together may take, from now on. patience: how many times as long
    as planned a single part may take, on a slower machine than it was planned for.
    failed, left_out: what did not work and what there was no time for, a sentence each.
    """

    def __init__(self, report: Report, folder: Path, seconds: float, patience: float = 1.0) -> None:
        self.report, self.folder, self.patience = report, folder, patience
        self.end = time.monotonic() + seconds
        self.failed: list[str] = []
        self.left_out: list[str] = []

    @property
    def seconds_left(self) -> float:
        """Until the time is over; negative afterwards."""
        return self.end - time.monotonic()

    def section(self, title: str, work: Callable[[], None], *, instant: bool = False) -> None:
        """Do `work` under a heading and write the report, whatever comes of it.

        An exception of `work` is written to the report. Where the time is over, work that is not
        `instant` is left out.
        """
        self.report.say("", f"## {title}", "")
        started = time.monotonic()
        if instant:
            self.end = max(self.end, time.monotonic() + 2 * LEAST_SECONDS)
        self.attempt(title, work, None)
        self.report.say("", f"({time.monotonic() - started:.1f} s)")
        self.report.write(self.folder)

    def attempt(self, name: str, work: Callable[[], None], at_most: float | None) -> bool:
        """Do a part of a section. Returns whether it came to its end; the report says why not.

        at_most: seconds, times `patience`, after which it is interrupted, or when the time of all
        is over, whichever is first; None = its own parts are limited.
        """
        if self.seconds_left < LEAST_SECONDS:
            self.left_out.append(f"{name}: no time was left")
            return False
        limit = TimeLimit(
            None if at_most is None else min(at_most * self.patience, self.seconds_left)
        )
        try:
            with limit:
                work()
        except Exception as error:
            if limit.expired:  # whatever a library made of the interruption
                self.left_out.append(f"{name}: stopped after {limit.seconds:.0f} s")
                return False
            self.failed.append(f"{name}: {type(error).__name__}: {str(error)[:500]}")
            self.report.say("", f"{name} failed:", "", "```", traceback.format_exc(), "```", "")
        else:
            return True
        return False

    def close(self) -> None:
        """Say what is missing, and write the report for the last time."""
        self.report.say("", "## What is missing", "")
        self.report.say(*(f"- failed: {one}" for one in self.failed))
        self.report.say(*(f"- not run: {one}" for one in self.left_out))
        if not self.failed and not self.left_out:
            self.report.say("Nothing: every part came to its end.")
        self.report.write(self.folder)


class TimeLimit:
    """Raises TimeoutError in a block after `seconds`, when its Python code has its turn again.

    seconds: None = never. expired: whether it did. In the main thread only, and not inside another.
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
