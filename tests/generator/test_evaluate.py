"""`python -m generator.evaluate`: its measures, and its command from weights to a report."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from generator import evaluate
from generator.evaluate import Labelled, precision_recall, select
from tests.support.photographs import crops
from tests.support.random_car import write_car_with_tokenizer
from tests.support.random_generator import write_with_tokenizer
from tests.support.training import write_shard

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_precision_and_recall_tell_faults_from_gaps() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 4))
    assert precision_recall(real, real) == (1.0, 1.0)
    far = real + 100
    assert precision_recall(real, far) == (0.0, 0.0)
    half = real[real[:, 0] > 0]  # good images, which leave out half of what there is
    precision, recall = precision_recall(real, half)
    assert precision == 1.0
    assert 0.4 < recall < 0.75
    faulty = np.concatenate([real, far])
    precision, recall = precision_recall(real, faulty)
    assert precision == 0.5
    assert recall == 1.0


def test_select_keeps_the_first_of_the_classes() -> None:
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    photos = Labelled(images, np.array(["ant", "cow", "bee", "ant", "ant"]))
    few = select(photos, {"ant", "bee"}, per_class=2)
    assert (few.images.ravel().tolist(), few.classes.tolist()) == ([0, 2, 3], ["ant", "bee", "ant"])
    assert select(photos, {"ant"}).images.ravel().tolist() == [0, 3, 4]


@pytest.fixture(params=["gpt", "car"])
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Of a generator with random weights, and of photos of two of its three classes."""
    write = write_with_tokenizer if request.param == "gpt" else write_car_with_tokenizer
    generator, tokenizer = write(tmp_path)
    photos = crops(24)
    write_shard(tmp_path / "train.tar", photos[:16], [*["ant"] * 8, *["bee"] * 7, "cat"])
    write_shard(tmp_path / "val.tar", photos[16:], ["ant", "bee"] * 3 + ["cat", "dog"])
    return [
        "generator.evaluate",
        generator,
        *("--tokenizer", tokenizer),
        *("--train", str(tmp_path / "train.tar"), "--validation", str(tmp_path / "val.tar")),
        *("--k", "4", "32", "--guidance", "1", "3"),
        *("-o", str(tmp_path / "report")),
    ]


def test_command_reports_each_setting(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [*arguments, "--members", "7"])
    evaluate.main()
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert (report["images"], report["classes"]) == (6, 2)
    rows = report["rows"]
    guidance = [row["setting"] and row["setting"]["guidance"] for row in rows]
    assert [(row["source"], row["k"], led) for row, led in zip(rows, guidance, strict=True)] == [
        ("photos", None, None),
        ("reconstructed", 4, None),
        ("reconstructed", 32, None),
        ("generated", 4, 1.0),
        ("generated", 32, 1.0),
        ("generated", 4, 3.0),
        ("generated", 32, 3.0),
    ]
    figures = [row["figures"] for row in rows]
    assert figures[0]["accuracy"] == 1.0  # of the photos that it learnt
    assert all(one["frechet"] > 0 and 0 <= one["accuracy"] <= 1 for one in figures)
    assert figures[3]["frechet"] != figures[5]["frechet"]
    assert capsys.readouterr().out.count("| generated |") == 4
    assert (tmp_path / "report/report.md").read_text().count("\n") == 2 + len(rows)


def test_command_refuses_classes_without_photos(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*arguments, "--members", "9"])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "no validation photo is of a class with 9 training photos" in capsys.readouterr().err


def test_command_refuses_another_tokenizer(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = arguments.index("--tokenizer") + 1
    arguments[other] = "tokenizer/weights/demo.safetensors"
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "generates tokens of tokenizer" in capsys.readouterr().err
