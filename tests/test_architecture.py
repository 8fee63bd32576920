"""docs/architecture.md is true: its paths exist. tests/test_layers.py checks its import rules."""

import re

from tests.support.running import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()


def test_every_path_that_the_page_names_exists() -> None:
    paths = re.findall(r"`([\w.]+/[\w./-]*)`", PAGE)
    assert len(paths) > 60
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_page_says_where_to_change_ten_things_or_more() -> None:
    rows = re.findall(r"^\| .+\|$", PAGE.partition("## Where to change what")[2], re.MULTILINE)
    assert len(rows) - 1 >= 10
