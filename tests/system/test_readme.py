"""README's commands and snippet, on a real service."""

from pathlib import Path

import pytest

from tests.support.page_commands import (
    BIN,
    blocks,
    commands,
    link_folders,
    run_command,
    run_snippet,
)
from tests.support.running import ROOT, Service

TEXT = (ROOT / "README.md").read_text()
PROGRAMS = (".venv/bin/channeltok ", ".venv/bin/python ", "curl ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    link_folders(tmp_path, ("docs", "model_repository"))
    return tmp_path


def test_readme_commands_run(service: Service, folder: Path) -> None:
    """Those that call the service or run an engine."""
    calls = [command for command in commands(TEXT) if command.startswith(PROGRAMS)]
    assert len(calls) >= 6
    for command in calls:
        run_command(command.replace(".venv/bin", str(BIN)), folder, service)
    assert (folder / "back.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "cat.ctok").read_bytes().startswith(b"CTOK")
    assert list((folder / "tokens").glob("*.parquet"))


def test_readme_snippet_runs(service: Service, folder: Path) -> None:
    (snippet,) = blocks(TEXT, "python")
    run_snippet(snippet, folder, service)
