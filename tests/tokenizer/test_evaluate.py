"""The evaluation command, on photographs and a small random model."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.photographs import crops
from tokenizer import checkpoint, evaluate
from tokenizer.evaluate import Report, Row, table
from tokenizer.evaluation import codecs
from tokenizer.models.channeltok import ChannelTok, ShuffleShape

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_evaluate_command_writes_table_json_and_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codecs, "SCALES", (32, 64, 128))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, data in enumerate(crops(3)):
        (photos / f"{i}.jpg").write_bytes(data)
    torch.manual_seed(0)
    model = ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))).eval()
    checkpoint.save(model, tmp_path / "model.safetensors")
    output = tmp_path / "report"
    arguments = [
        str(tmp_path / "model.safetensors"),
        "--data",
        str(photos),
        "--codecs",
        "-o",
        str(output),
    ]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    evaluate.main()

    report = json.loads((output / "report.json").read_text())
    assert report["photos"] == 3
    assert report["fingerprint"] == checkpoint.fingerprint(
        checkpoint.load(tmp_path / "model.safetensors")
    )
    assert report["frechet_floor"] is None  # three photos have no covariance to speak of
    ours = [row for row in report["rows"] if row["method"] == "ChannelTok"]
    assert [(row["k"], row["size"]) for row in ours] == [(8, 16), (16, 32), (32, 64)]
    webp = [row for row in report["rows"] if row["method"] == "WebP" and row["kept"] == 1]
    assert [row["psnr"] for row in webp] == sorted(row["psnr"] for row in webp)
    assert [row["distance"] for row in webp] == sorted(
        (row["distance"] for row in webp), reverse=True
    )
    assert (output / "report.png").stat().st_size > 0
    assert (output / "report.md").read_text() in capsys.readouterr().out
    assert [asdict(row) for row in evaluate.codec_rows(output, "photos", 3)] == [
        row for row in report["rows"] if row["k"] is None
    ]
    for data, count in (("others", 3), ("photos", 4)):
        with pytest.raises(ValueError, match="is a report of 3 photos of photos, not of"):
            evaluate.codec_rows(output, data, count)


def test_table_marks_the_best_of_a_size_and_what_does_not_fit() -> None:
    rows = [
        Row("ChannelTok", 32, 64, psnr=20.0, ssim=0.4, distance=7.0, l1=0.05, grid=1.0),
        Row("WebP", None, 64, psnr=19.0, ssim=0.5, distance=8.0),
        Row("JPEG", None, 64, kept=0.25),
        Row("ChannelTok", 256, 512, psnr=21.0, ssim=0.5, distance=6.0),
    ]
    lines = table(Report("demo", "0" * 16, "val", 3, 1.0, 1.0, None, rows)).splitlines()
    (ours,) = [line for line in lines if "| 32 |" in line]
    assert "**20.00**" in ours
    assert "**7.00**" in ours
    assert "**" not in next(line for line in lines if "| 256 |" in line)
    assert "**0.500**" in next(line for line in lines if line.startswith("| WebP"))
    assert "25 % of photos fit" in next(line for line in lines if line.startswith("| JPEG"))
    assert "512 | 4,096" in lines[-1]


def test_evaluate_tokenizer_reports_frechet_for_enough_photos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "FRECHET_PHOTOS", 4)
    torch.manual_seed(0)
    model = ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))).eval()
    photos = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    rows, floor, live = evaluate.evaluate_tokenizer(model, photos)
    assert floor is not None
    assert all(row.frechet is not None and row.frechet > floor for row in rows)
    assert 0 <= live <= 1
