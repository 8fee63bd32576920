"""docs/architecture.md names existing paths; tests/test_layers.py checks its import rules."""

import re

from tests.support.running import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()


def test_architecture_names_existing_paths() -> None:
    paths = re.findall(r"`([\w.]+/[\w./-]*)`", PAGE)
    assert len(paths) > 60
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_architecture_says_where_to_change_ten_things() -> None:
    rows = re.findall(r"^\| .+\|$", PAGE.partition("## Where to change what")[2], re.MULTILINE)
    assert len(rows) - 1 >= 10
