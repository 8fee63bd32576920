"""Engines that run in this process, on several threads."""

import subprocess
import sys

from tests.support.running import ROOT


def test_threads_that_begin_at_once_do_not_wait_for_each_other() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.two_threads"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "64\n"
