"""Ratios of old and new, and a short run of both comparisons with an older commit."""

import json
import sys
from pathlib import Path

import pytest

from loadtest.bench import images, pixel_difference
from loadtest.bench.images import Pairs
from loadtest.harness import checkout
from tests.support.running import ROOT


def test_pairs_measure_in_turns_and_compare_within_rounds() -> None:
    order: list[str] = []
    rates = {"old": iter([10.0, 20.0, 40.0]), "new": iter([20.0, 30.0, 200.0])}

    def rate(name: str) -> float:
        order.append(name)
        return next(rates[name])

    pairs = Pairs.measured(3, lambda: rate("old"), lambda: rate("new"))
    assert order == ["old", "new", "new", "old", "old", "new"]
    assert pairs.ratio == 2.0  # the median of 2, 1.5 and 5
    assert pairs.figures("jpeg") == {
        "jpeg_over_before": 2.0,
        "jpeg_images_per_second": 30.0,
        "jpeg_before_images_per_second": 20.0,
    }


def test_unpacked_names_a_commit_that_is_not_there() -> None:
    with pytest.raises(SystemExit, match="no commit 0123abcd in this repository"):
        checkout.unpacked("0123abcd")


@pytest.mark.bench
def test_images_writes_a_report_of_every_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "REPORT", tmp_path / "images.json")
    monkeypatch.setattr(images, "DECODE_SECONDS", 0)
    short = ["--baseline", "HEAD", "--rounds", "1", "--seconds", "2", "--photos", "4"]
    monkeypatch.setattr(sys, "argv", ["images", *short])
    images.main()
    figures = json.loads(images.REPORT.read_text())
    table = capsys.readouterr().out
    for kind in ("jpeg_12mp", "jpeg_3mp", "jpeg_256", "png_2mp", "webp_2mp", "tokenize_12mp"):
        assert figures[f"{kind}_over_before"] > 0
        assert figures[f"{kind}_images_per_second"] > 0
        assert f"| {kind} |" in table
    assert 3e6 < figures["jpeg_12mp_bytes"] < 4e6  # as from a camera


@pytest.mark.bench
def test_pixel_difference_of_a_commit_to_itself_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = images.camera_photos(384, 256, 1)[0]
    photo.save(tmp_path / "photo.png")
    monkeypatch.setattr(checkout, "unpacked", lambda commit: ROOT)
    monkeypatch.setattr(sys, "argv", ["pixel_difference", "--data", str(tmp_path)])
    pixel_difference.main()
    row = next(line for line in capsys.readouterr().out.splitlines() if "as they are" in line)
    assert "| 384 x 256 | 108.1, 108.1 | 0.00% |" in row
