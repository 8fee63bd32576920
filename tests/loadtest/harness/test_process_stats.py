"""Memory, handles, threads and processes are counted while a process holds them, and not after."""

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from loadtest.harness import process_stats
from tests.loadtest.harness import greedy_process


@pytest.fixture
def greedy() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, greedy_process.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def send_line(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()


def test_read_follows_what_a_process_takes_and_releases(greedy: "subprocess.Popen[str]") -> None:
    before = process_stats.read(greedy.pid)
    with process_stats.watched(greedy.pid, 0.02) as peak:
        send_line(greedy)
        time.sleep(0.5)
        taken = process_stats.read(greedy.pid)
        send_line(greedy)
    after = process_stats.settled(greedy.pid, 1)
    assert taken.memory - before.memory > 55e6
    assert taken.handles - before.handles >= 5
    assert taken.threads - before.threads >= 2  # its own and the child's first
    assert (before.processes, taken.processes, after.processes) == (1, 2, 1)
    assert taken.growth_since(before)["memory"] > 1
    assert peak.memory >= taken.memory * 0.9
    assert after.growth_since(before)["memory"] < 0.5
    assert (after.handles, after.threads) == (before.handles, before.threads)


def test_read_raises_for_a_process_that_has_ended(greedy: "subprocess.Popen[str]") -> None:
    greedy.kill()
    greedy.wait()
    with pytest.raises(psutil.NoSuchProcess):
        process_stats.read(greedy.pid)
