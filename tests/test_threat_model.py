"""docs/threat-model.md names existing files, tests and settings, and the files do what it says."""

import re

import pytest

from service.settings import Settings
from tests.support.running import ROOT

PAGE = (ROOT / "docs/threat-model.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| threat ")
]
FILE = r"`((?:service|imaging|tokenizer|export|\.ci)/[\w./]+|docker-compose\.yml)`"


def test_threat_model_names_existing_tests() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    missing = [
        f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()
    ]
    assert not missing


def test_threat_model_names_existing_files() -> None:
    named = re.findall(FILE, PAGE)
    assert len(named) > 30
    assert not [file for file in named if not (ROOT / file).is_file()]


def test_threats_have_a_defence_and_a_proof() -> None:
    assert len(ROWS) > 20
    for threat, defence, proof, _ in ROWS:
        assert threat
        assert "`" in defence or "as above" in defence, threat
        assert "::" in proof, threat


def test_defending_settings_are_used_by_a_file_of_their_row() -> None:
    settings = [
        (setting, defence)
        for _, defence, *_ in ROWS
        for setting in re.findall(r"`(\w+)`", defence)
        if "-" not in setting
    ]
    assert len(settings) >= 4
    for setting, defence in settings:
        assert setting in Settings.model_fields
        files = [(ROOT / file).read_text() for file in re.findall(FILE, defence)]
        assert any(setting in text for text in files), setting


@pytest.mark.parametrize(
    ("file", "defence"),
    [
        ("service/observability/logs.py", "show_locals=False"),
        ("service/security/bearer_tokens.py", "compare_digest"),
        ("service/security/tls.py", "TLSv1_2"),
        ("tokenizer/checkpoint.py", "weights_only=True"),
    ],
)
def test_defending_files_contain_their_defence(file: str, defence: str) -> None:
    assert f"`{file}`" in PAGE
    assert defence in (ROOT / file).read_text()
