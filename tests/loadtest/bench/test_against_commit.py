"""A short run of a commit against itself."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtest.bench import against_commit


def test_report_takes_the_median_of_the_rounds_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [(10.0, 20.0), (20.0, 30.0), (40.0, 200.0)]
    rows = np.array([[[old] * 5, [new] * 5, [old / 2] * 5] for old, new in rounds])
    figures = against_commit._report("encode", 16, rows)
    assert figures["encode_c16_per_second"] == 30.0
    assert figures["encode_c16_per_second_over_before"] == 2.0  # the median of 2, 1.5 and 5
    assert figures["encode_c16_per_second_least_over_before"] == 0.5
    assert "| per_second | 20.00 | 30.00 | 2.00 | 10.00 | 0.50 |" in capsys.readouterr().out


@pytest.mark.bench
def test_a_commit_is_measured_against_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(against_commit, "REPORT", tmp_path / "before.json")
    short = ["--baseline", "HEAD", "--rounds", "1", "--seconds", "1"]
    monkeypatch.setattr(sys, "argv", ["against_commit", *short])
    against_commit.main()
    figures = json.loads(against_commit.REPORT.read_text())
    assert figures["encode_gateway_ms_per_image_over_before"] > 0
    assert figures["decode_gateway_ms_per_image_over_before"] > 0
    assert figures["lone_encode_p50_over_before"] > 0
    assert 0 < figures["encode_c1_gateway_ms_least"] < figures["encode_c1_gateway_ms"]
    assert figures["decode_c64_per_second"] > 0
