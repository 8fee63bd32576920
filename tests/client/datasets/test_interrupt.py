"""tokenize interrupted with Ctrl-C, once and twice."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from channeltok.datasets import tokenize

from tests.support import dataset_files
from tests.support.byte_engine import ByteEngine
from tests.support.running import ROOT, eventually

# The command with an engine that takes its time, or hangs after some images.
PROGRAM = """
import argparse, contextlib, signal, sys, time
from channeltok.cli import datasets
from channeltok.cli.command import CommandParser, run_command
from tests.support.byte_engine import ByteEngine

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
hangs = sys.argv.pop() == "hangs"
engine = ByteEngine(lambda number: time.sleep(600 if hangs and number > 160 else 0.002))
parser = CommandParser()
commands = parser.add_subparsers()
options = argparse.ArgumentParser(add_help=False)
options.add_argument("--tokenizer")
datasets.add_commands(
    commands, [options], lambda options: contextlib.nullcontext([engine]), lambda options: None
)
sys.exit(run_command(parser, None))
"""


def _start(source: Path, tokens: Path, how: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, "tokenize", str(source), str(tokens), how]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("how", "times"), [("goes on", 1), ("hangs", 1), ("hangs", 2)])
def test_ctrl_c_ends_the_run_within_seconds(how: str, times: int, tmp_path: Path) -> None:
    source, tokens = tmp_path / "source", tmp_path / "tokens"
    for shard in range(40):
        images = [(f"{shard}-{number}", b"%d %d" % (shard, number)) for number in range(50)]
        dataset_files.tar(source / f"{shard:02d}.tar", images)
    run = _start(source, tokens, how)
    before = 2 if how == "hangs" else 1  # then the engine hangs, or is soon about to
    eventually(lambda: len(list(tokens.glob("*.parquet"))) >= before, 60, "the first shards")
    time.sleep(1)
    started = time.monotonic()
    for number in range(times):
        time.sleep(0.5 * number)
        run.send_signal(signal.SIGINT)
    _, printed = run.communicate(timeout=30)
    assert time.monotonic() - started < 20
    assert run.returncode == 130, printed
    assert "Traceback" not in printed
    assert "interrupted" in printed.splitlines()[-1]
    if times == 1:
        assert "of 40 shards are done, the same command continues" in printed
    assert not list((tokens / ".channeltok").glob("writing-*"))
    summary = tokenize(str(source), str(tokens), [ByteEngine()])
    assert summary.images == 2000
    assert summary.done_before >= 1
