"""Engines that run in this process, on several threads."""

import subprocess
import sys

from tests.support.running import ROOT


def test_threads_that_start_together_do_not_deadlock() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.two_threads"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "64\n"
