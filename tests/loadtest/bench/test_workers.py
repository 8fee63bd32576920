"""A short run of the benchmark of several workers."""

import json
import sys
from pathlib import Path

import pytest

from loadtest.bench import workers


@pytest.mark.bench
def test_workers_are_measured_by_their_core_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers, "REPORT", tmp_path / "workers.json")
    monkeypatch.setattr(sys, "argv", ["workers", "--rounds", "1", "--seconds", "1"])
    workers.main()
    figures = json.loads(workers.REPORT.read_text())
    for role in ("encode", "decode"):
        for count in workers.WORKERS:
            assert figures[f"{role}_w{count}_per_second"] > 0
            assert 0.1 < figures[f"{role}_w{count}_gateway_ms"] < 100
