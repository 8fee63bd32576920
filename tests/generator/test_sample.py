"""`python -m generator.sample`: sampling, its command and its refusals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from generator.output_head import Sampling, gumbel
from generator.sample import random_sheet, sample, sheet
from tests.support.random_generator import CLASSES, random_generator, write_with_tokenizer


def test_sample_greedy_tokens_equal_those_of_the_full_forward_pass() -> None:
    model = random_generator().model
    tokens = sample(model, [2, -1], seed=0, temperature=0.0)
    with torch.inference_mode():
        hidden, _ = model.hidden(
            F.pad(tokens[:, :-1], (1, 0), value=-1), torch.tensor([2, -1]), model.empty_cache(2), 0
        )
        of_both = len(tokens) * tokens.shape[1]
        zeros = torch.zeros(of_both, model.prediction.draws, model.prediction.values)
        expected, _ = model.prediction.sample(
            hidden.flatten(0, 1), Sampling.of(of_both, temperature=0.0), zeros
        )
    assert torch.equal(tokens.flatten(), expected)


def test_sample_is_deterministic_per_seed() -> None:
    model = random_generator().model
    first, again, other = (sample(model, [0, 1], seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sample_goes_to_the_final_temperature_by_position() -> None:
    model = random_generator().model
    length, head = model.shape.channels, model.prediction
    tokens = sample(model, [2], seed=5, temperature=2.0, final_temperature=0.0)
    source = torch.Generator().manual_seed(5)
    noise = torch.cat([gumbel(source, 1, head.draws, head.values) for _ in range(length)])
    sampling = Sampling.of(length, top_k=200)._replace(temperature=torch.linspace(2, 0, length))
    with torch.inference_mode():
        hidden, _ = model.hidden(
            F.pad(tokens[:, :-1], (1, 0), value=-1), torch.tensor([2]), model.empty_cache(1), 0
        )
        expected, _ = head.sample(hidden[0], sampling, noise)
    assert torch.equal(tokens[0], expected)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The command's weights, and the option that names their tokenizer."""
    generator, tokenizer = write_with_tokenizer(tmp_path)
    return [generator, "--tokenizer", tokenizer, "-o", str(tmp_path / "out.png")]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "generator.sample", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_sample_command_draws_a_row_per_class(files: list[str]) -> None:
    made = run(*files, "cat", "bee")
    assert made.returncode == 0, made.stderr
    with Image.open(files[-1]) as image:
        assert image.height > 2 * 200


def test_sample_command_refuses_unknown_classes_and_other_tokenizers(files: list[str]) -> None:
    unknown = run(*files, "cat", "dog")
    assert unknown.returncode == 1
    assert unknown.stderr.endswith("does not know dog; its classes are ant, bee, cat\n")
    demo = run(files[0], "cat", "-o", files[-1])
    assert demo.returncode == 1
    assert "generates tokens of tokenizer" in demo.stderr


def test_sample_command_draws_a_sheet_of_random_classes(files: list[str]) -> None:
    made = run(*files, "--random", "--k", "8")
    assert made.returncode == 0, made.stderr
    with Image.open(files[-1]) as image:
        assert image.width / image.height == pytest.approx(1, rel=0.15)
        assert image.height > 8 * 200
    assert len(set(random_sheet(CLASSES, seed=0))) == 3
    assert random_sheet(CLASSES, seed=0) != random_sheet(CLASSES, seed=1)


def test_a_sheet_is_read_row_by_row() -> None:
    images = np.arange(64, dtype=np.uint8).reshape(64, 1, 1, 1).repeat(3, axis=3)
    columns = sheet([str(i) for i in range(64)], images)
    assert [column.titles[0] for column in columns] == [str(i) for i in range(8)]
    assert [column.images[1, 0, 0, 0] for column in columns] == list(range(8, 16))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give names of classes, or --random"),
        (["cat", "--random"], "give names of classes, or --random"),
        (["cat", "--k", "8"], "--k is for --random"),
        (["--random", "--k", "33"], "k must be 1 to 32, not 33"),
    ],
)
def test_sample_command_refuses_other_options(
    files: list[str], words: list[str], message: str
) -> None:
    made = run(*files, *words)
    assert made.returncode != 0
    assert made.stderr.endswith(f"{message}\n")
