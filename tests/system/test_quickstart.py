"""The commands and snippets of docs/quickstart.md, on a real service."""

from pathlib import Path

import pytest

from tests.support.page_commands import (
    blocks,
    commands,
    link_folders,
    run_command,
    run_snippet,
    sections,
)
from tests.support.running import ROOT, Service

SECTIONS = sections((ROOT / "docs/quickstart.md").read_text())
FOLDERS = ("model_repository", "docs", "loadtest", "tokenizer", "export", "service", "imaging")
# Section -> files that its commands and snippets make.
MADE = {
    "Encode and decode": ["cat.ctok", "back.png", "again.png"],
    "Whole datasets": ["tokens/.channeltok/manifest.json", "photos/cat.jpg"],
    "Health, metrics, alerts": [],
    "Load": [],
    "Checkpoints and models": ["cat-16.png", "models/mine_encode/config.pbtxt"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    link_folders(folder, FOLDERS)
    return folder


@pytest.mark.parametrize("section", MADE)
def test_quickstart_section_runs(service: Service, folder: Path, section: str) -> None:
    """Its commands, then its snippets, which may read their files."""
    assert commands(SECTIONS[section])
    for command in commands(SECTIONS[section]):
        run_command(command, folder, service)
    for snippet in blocks(SECTIONS[section], "python"):
        run_snippet(snippet, folder, service)
    for name in MADE[section]:
        assert (folder / name).stat().st_size > 0


def test_quickstart_leads_each_kind_of_user_to_a_section() -> None:
    assert list(SECTIONS) == list(MADE)
    assert len(MADE) == 5
