"""What a process and its children hold is seen, and what they give back too."""

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from loadtest.harness import process_stats

# On a line of input: takes 60 MB, 5 handles, a thread and a child; on the next, gives them back.
GREEDY = """
import os, subprocess, sys, threading, time
print("ready", flush=True)
sys.stdin.readline()
taken = bytearray(os.urandom(60_000_000))
handles = [open("/dev/null") for _ in range(5)]
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("taken", flush=True)
sys.stdin.readline()
del taken
[one.close() for one in handles]
done.set()
thread.join()
child.kill()
child.wait()
print("given back", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def greedy() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()


def test_what_is_taken_and_given_back(greedy: "subprocess.Popen[str]") -> None:
    before = process_stats.read(greedy.pid)
    with process_stats.watched(greedy.pid, 0.02) as peak:
        go_on(greedy)
        time.sleep(0.5)
        taken = process_stats.read(greedy.pid)
        go_on(greedy)
    after = process_stats.settled(greedy.pid, 1)
    assert taken.memory - before.memory > 55e6
    assert taken.handles - before.handles >= 5
    assert taken.threads - before.threads >= 2  # its own and the child's first
    assert (before.processes, taken.processes, after.processes) == (1, 2, 1)
    assert taken.grown_over(before)["memory"] > 1
    assert peak.memory >= taken.memory * 0.9
    assert after.grown_over(before)["memory"] < 0.5
    assert (after.handles, after.threads) == (before.handles, before.threads)


def test_a_process_that_is_gone(greedy: "subprocess.Popen[str]") -> None:
    greedy.kill()
    greedy.wait()
    with pytest.raises(psutil.NoSuchProcess):
        process_stats.read(greedy.pid)
