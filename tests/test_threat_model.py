"""Every file and every test that the threat model leans on exists."""

import re

from tests.support.running import ROOT

PAGE = (ROOT / "docs/threat-model.md").read_text()
ROWS = [
    line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| threat ")
]


def test_every_test_it_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    missing = [
        f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()
    ]
    assert not missing


def test_every_file_it_names_exists() -> None:
    named = re.findall(
        r"`((?:service|imaging|tokenizer|export|\.ci)/[\w./]+|docker-compose\.yml)`", PAGE
    )
    assert len(named) > 30
    assert not [file for file in named if not (ROOT / file).is_file()]


def test_every_threat_has_a_defence_and_a_proof() -> None:
    assert len(ROWS) > 20
    for row in ROWS:
        threat, defence, proof, _rest = (cell.strip() for cell in row.strip("|").split("|"))
        assert threat
        assert "`" in defence or "as above" in defence, row
        assert "::" in proof, row
