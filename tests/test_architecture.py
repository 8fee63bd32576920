"""docs/architecture.md is true: its paths exist, and its import rules hold."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.running import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
# Folder -> top-level packages that nothing in it imports.
FORBIDDEN = {
    "service": {"torch", "tokenizer", "generator", "export", "loadtest"},
    "tokenizer": {"service", "export", "generator", "loadtest"},
    "generator": {"service", "export", "loadtest"},
    "export": {"service", "loadtest"},
    "imaging": {"torch", "channeltok", "service", "tokenizer", "generator", "export", "loadtest"},
    "client": {"torch", "imaging", "service", "tokenizer", "generator", "export", "loadtest"},
}


def imported_packages(file: Path) -> set[str]:
    """Top-level names of every import in a file, those inside functions included."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_folder_imports_nothing_that_the_rules_forbid(folder: str) -> None:
    broken = {
        (str(file.relative_to(ROOT)), package)
        for file in (ROOT / folder).rglob("*.py")
        for package in imported_packages(file) & FORBIDDEN[folder]
    }
    assert not broken


def test_every_path_that_the_page_names_exists() -> None:
    paths = re.findall(r"`([\w.]+/[\w./-]*)`", PAGE)
    assert len(paths) > 60
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_page_says_where_to_change_ten_things_or_more() -> None:
    rows = re.findall(r"^\| .+\|$", PAGE.partition("## Where to change what")[2], re.MULTILINE)
    assert len(rows) - 1 >= 10
