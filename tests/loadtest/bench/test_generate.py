"""A short run of the benchmark of Generate."""

import json
import sys
from pathlib import Path

import pytest

from loadtest.bench import generate


@pytest.mark.bench
def test_generate_is_measured_against_its_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It fails where the service's tokens are not those of the bare loop."""
    monkeypatch.setattr(generate, "REPORT", tmp_path / "generate.json")
    monkeypatch.setattr(sys, "argv", ["generate", "--rounds", "1"])
    generate.main()
    figures = json.loads(generate.REPORT.read_text())
    assert figures["generate_served_over_graph"] > 1
    assert 0 < figures["generate_first_token_seconds"] < figures["generate_served_seconds"]
    assert figures["generate_together_over_one"] > 1
