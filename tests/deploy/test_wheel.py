"""What the wheel holds, and how its imports are rewritten. tests/packages installs it."""

from pathlib import Path

import pytest

from deploy.wheel import UnsupportedImport, included, place_of, rewrite

MOVED = {"service", "imaging"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from service.core import queue\n", "from channeltok.service.core import queue\n"),
        ("from imaging import read\n", "from channeltok.imaging import read\n"),
        ("import imaging\n", "from channeltok import imaging\n"),
        ("import imaging as pictures\n", "from channeltok import imaging as pictures\n"),
        (
            "def late():\n    from service.errors import (\n        A,\n    )\n",
            "def late():\n    from channeltok.service.errors import (\n        A,\n    )\n",
        ),
        ("if True: import imaging\n", "if True: from channeltok import imaging\n"),
    ],
)
def test_rewrite_moves_imports_of_the_projects_packages(code: str, expected: str) -> None:
    assert rewrite(code, MOVED) == expected


@pytest.mark.parametrize(
    "code",
    [
        "import os, sys\n",
        "from services import a\n",
        "from channeltok.errors import service\n",
        "from . import service\n",
        '"""An example:\n\nfrom service.core import queue\n"""\n',
        "service = imaging = 'import service'\n",
    ],
)
def test_rewrite_changes_nothing_else(code: str) -> None:
    assert rewrite(code, MOVED) == code


@pytest.mark.parametrize("code", ["import service.core\n", "import os, imaging\n"])
def test_rewrite_refuses_imports_that_it_cannot_express(code: str) -> None:
    with pytest.raises(UnsupportedImport, match="write `from"):
        rewrite(code, MOVED)


def test_included_finds_files_without_compiled_code(tmp_path: Path) -> None:
    for name in ("a/b.py", "a/web/page.html", "a/__pycache__/b.pyc", "one.py", "other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = set(included(tmp_path, ["a", "one.py", "absent"]))
    assert found == {Path("a/b.py"), Path("a/web/page.html"), Path("one.py")}


def test_place_of_puts_all_below_the_client() -> None:
    assert place_of(Path("client/channeltok/tokens.py")) == Path("channeltok/tokens.py")
    assert place_of(Path("service/gateway.py")) == Path("channeltok/service/gateway.py")
