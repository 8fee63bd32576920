"""Lines that nobody reads are lost and counted, and writing them neither blocks nor fails."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from service.observability import metrics
from service.observability.output import MAX_WAITING_BYTES, Output
from tests.support.running import ROOT, eventually

LINE = "x" * 999 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # the test has closed it
            os.close(end)


def lost() -> float:
    value: float = metrics.LOG_LINES_LOST._value.get()
    return value


def test_output_writes_lines_in_order_and_flushes_a_partial_one(pipe: tuple[int, int]) -> None:
    output = Output(pipe[1])
    print("one", "two", file=output)
    output.write("three\nfo")
    output.write("ur \ud800")  # not UTF-8
    output.flush_within(10)
    assert os.read(pipe[0], 1000) == b"one two\nthree\nfour \\ud800"


def test_output_without_a_reader_counts_every_line(pipe: tuple[int, int]) -> None:
    output, before = Output(pipe[1]), lost()
    os.close(pipe[0])
    for _ in range(10):
        output.write("a line\n")
    output.flush_within(10)
    assert lost() - before == 10


def test_output_that_nobody_reads_keeps_its_bound_and_reports_the_loss_later(
    pipe: tuple[int, int],
) -> None:
    output, before = Output(pipe[1], reports_loss=True), lost()
    count = 2 * MAX_WAITING_BYTES // len(LINE)
    for _ in range(count):
        output.write(LINE)
    output.flush_within(0.1)
    assert count / 3 < lost() - before < count
    received: list[bytes] = []

    def read() -> None:
        while data := os.read(pipe[0], 2**16):
            received.append(data)

    threading.Thread(target=read, daemon=True).start()
    output.flush_within(30)
    output.write("the next line\n")
    output.flush_within(30)
    eventually(lambda: b"".join(received).endswith(b"next line\n"), 30, "the next line")
    lines = b"".join(received).splitlines()
    reports = [json.loads(line) for line in lines if line.startswith(b"{")]
    assert sum(report["count"] for report in reports) == lost() - before
    assert len(lines) - len(reports) == count - (lost() - before) + 1


def test_output_waits_for_a_descriptor_that_does_not_block(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    output, before = Output(pipe[1]), lost()
    for _ in range(500):
        output.write(LINE)
    received = b""
    while len(received) < 500 * len(LINE):
        received += os.read(pipe[0], 2**16)
    assert lost() == before


def test_take_over_relays_c_code_and_children_and_flushes_at_exit() -> None:
    program = """
import os, subprocess, sys
from service.observability import output
output.take_over()
print("print")
print("error", file=sys.stderr)
os.write(2, b"c code\\n")
subprocess.run(["sh", "-c", "echo child >&2"])
sys.exit("exit")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "print\n")
    assert sorted(done.stderr.splitlines()) == ["c code", "child", "error", "exit"]


def test_take_over_gives_closed_descriptors_to_nobody_else() -> None:
    program = """
import os, socket
from service.observability import output
output.take_over()
with socket.socket() as next_one:
    assert next_one.fileno() > 2
print("goes nowhere")
os.write(2, b"nor does this")
"""
    command = '"$0" -c "$1" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", command, sys.executable, program], cwd=ROOT, timeout=60)
    assert done.returncode == 0
