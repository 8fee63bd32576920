"""Runs of tokenize that are killed with SIGKILL at random moments and continued."""

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import dataset_files
from tests.support.photographs import crops
from tests.support.running import ROOT, eventually
from tests.support.tokenize_command import IN_PROCESS, content

SHARDS = 8


def start(source: Path, destination: Path) -> "subprocess.Popen[bytes]":
    command = [*IN_PROCESS, str(source), str(destination), "-k", "32"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_tokenize_ends_with_the_bytes_of_an_undisturbed_run(
    kills: int, tmp_path: Path
) -> None:
    images = [(f"photo-{number:04d}", image) for number, image in enumerate(crops(SHARDS * 60))]
    for shard in range(SHARDS):
        dataset_files.tar(
            tmp_path / f"source/train-{shard:04d}.tar",
            [*images[shard::SHARDS], (f"bad-{shard}", b"no image")],
        )
    started = time.monotonic()
    assert start(tmp_path / "source", tmp_path / "undisturbed").wait(120) == 0
    seconds = time.monotonic() - started
    undisturbed = content(tmp_path / "undisturbed")
    assert len(undisturbed) == 2 * SHARDS + 2
    rng = random.Random(kills)
    killed = unfinished = 0
    while killed < kills:
        run = start(tmp_path / "source", tmp_path / "killed")
        try:
            if killed == 0:  # this one in the middle for certain, the others at any moment
                eventually(
                    lambda: bool(list((tmp_path / "killed").glob("*.parquet"))),
                    120,
                    "a first shard",
                )
            assert run.wait(0 if killed == 0 else rng.uniform(0.3, 1.0) * seconds) == 0
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            killed += 1
            unfinished += 0 < len(list((tmp_path / "killed").glob("*.parquet"))) < SHARDS
        else:
            assert content(tmp_path / "killed") == undisturbed
            shutil.rmtree(tmp_path / "killed")
    assert start(tmp_path / "source", tmp_path / "killed").wait(120) == 0
    assert content(tmp_path / "killed") == undisturbed
    assert unfinished, "no kill came between the first shard and the last"
