"""A short run of the benchmark of quality targets."""

import json
import sys
from pathlib import Path

import pytest

from loadtest.bench import quality


@pytest.mark.bench
def test_quality_targets_are_measured_beside_encode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(quality, "REPORT", tmp_path / "quality.json")
    monkeypatch.setattr(quality, "SECONDS", 1.0)
    monkeypatch.setattr(sys, "argv", ["quality", "--rounds", "1"])
    quality.main()
    figures = json.loads(quality.REPORT.read_text())
    assert figures["quality_encode_per_second"] > 0
    assert 0 < figures["quality_encode_over_encode"] < 1
