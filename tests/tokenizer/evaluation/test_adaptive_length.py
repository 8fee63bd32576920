"""Choosing k per image: on curves made by hand, and on real photos."""

import sys
from pathlib import Path

import numpy as np
import pytest
from channeltok import Quality, QualityPoint
from PIL import Image

from imaging.similarity import ssim
from tokenizer import checkpoint, inference
from tokenizer.evaluation import adaptive_length
from tokenizer.training.data import evaluation_photos

WEIGHTS = Path("tokenizer/weights/demo.safetensors")
PHOTOS = "docs/images/*.jpg"


def test_adaptive_length_spends_tokens_where_they_gain_most() -> None:
    tried = Quality(ssim=0.5).budgets(64)
    flat = [QualityPoint(k, 0.4, 20.0) for k in tried]
    steep = [QualityPoint(k, k / 64, 20.0) for k in tried]
    assert adaptive_length.chosen([flat, steep], Quality(ssim_per_token=0.01), 64) == (
        2 * (2 + 64) / 2,
        (0.4 + 1) / 2,
    )
    assert adaptive_length.fixed([flat, steep]) == (
        [2 * k for k in tried],
        [(0.4 + k / 64) / 2 for k in tried],
    )


def test_adaptive_length_curves_match_decoded_images() -> None:
    model = checkpoint.load(WEIGHTS)
    photos = evaluation_photos(PHOTOS, 128)
    rows = adaptive_length.curves(model, photos)
    decoded = inference.decode(model, inference.encode(model, photos), 96)
    assert [next(point.ssim for point in row if point.k == 96) for row in rows] == pytest.approx(
        ssim(photos, decoded).tolist()
    )
    assert {point.k for point in rows[0]} >= set(Quality(ssim=0.5).budgets(256))


def test_adaptive_length_command_draws_and_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        ["by_quality", str(WEIGHTS), "--data", PHOTOS, "-o", str(tmp_path / "plot.png")],
    )
    adaptive_length.main()
    assert np.asarray(Image.open(tmp_path / "plot.png")).std() > 10
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows
    assert all(row.endswith("% |") for row in rows)
