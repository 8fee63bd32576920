"""The ImageNet recipe on two CPU processes: train, kill, resume."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.photographs import crops
from tests.support.training import write_shard
from tokenizer import checkpoint
from tokenizer.models.channeltok import ChannelTok, ShuffleShape

ROOT = Path(__file__).parents[3]


def start_torchrun(folder: Path, samples: int) -> subprocess.Popen[str]:
    """The recipe itself, with smaller sizes."""
    smaller = {
        "run": folder / "run",
        "train": f"{folder}/train-*.tar",
        "validation": folder / "train-0.tar",
        "start_from": folder / "start.safetensors",
    }
    smaller |= {
        "samples": samples,
        "batch": 4,
        "workers": 1,
        "precision": "fp32",
        "perceptual_trunk": "alex",
        "perceptual_rise": 8,
    }
    smaller |= {"gan_from": 8, "warmup_steps": 2, "evaluate_every": 16, "checkpoint_minutes": 1e-6}
    settings = {f"CHANNELTOK_TRAIN_{name.upper()}": str(value) for name, value in smaller.items()}
    recipe = {
        "CHANNELTOK_TRAIN_RECIPE": str(ROOT / "tokenizer/recipes/imagenet_8gpu.toml"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "tokenizer.train",
        ],
        cwd=ROOT,
        env={**os.environ, **recipe, **settings},
        stderr=subprocess.PIPE,
        text=True,
    )


def views_saved(folder: Path) -> int:
    last = folder / "run/last.pt"
    return int(torch.load(last, weights_only=True)["views"]) if last.exists() else 0


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts the run in the test's folder with a number of samples; kills it in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(samples: int) -> subprocess.Popen[str]:
        started.append(start_torchrun(tmp_path, samples))
        return started[-1]

    yield start
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the launcher and its processes, each in a session of its own, with SIGKILL."""
    with suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        for child in [*launcher.children(recursive=True), launcher]:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


@pytest.mark.slow  # half a minute: torchrun, twice
@pytest.mark.timeout(240)
def test_trainer_on_two_processes_survives_a_kill(
    tmp_path: Path, torchrun: Callable[[int], subprocess.Popen[str]]
) -> None:
    for number in range(2):
        write_shard(tmp_path / f"train-{number}.tar", crops(5, seed=number))
    torch.manual_seed(0)
    checkpoint.save(
        ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))),
        tmp_path / "start.safetensors",
    )

    first = torchrun(4_000_000)
    deadline = time.monotonic() + 90
    while views_saved(tmp_path) < 12:
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline, "no 12 views within 90 s"
        time.sleep(0.2)
    kill(first)
    saved = views_saved(tmp_path)

    second = torchrun(saved + 16)
    _, errors = second.communicate(timeout=90)
    assert second.returncode == 0, errors
    assert views_saved(tmp_path) == saved + 16
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert rows[-1]["views"] == saved + 16
    recipe = json.loads(checkpoint.facts(tmp_path / "run/weights.safetensors")["recipe"])
    assert (recipe["optimiser"], recipe["gan_weight"], recipe["perceptual_weight"]) == (
        "adamw",
        0.1,
        1.0,
    )
