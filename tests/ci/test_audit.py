"""The audit of .ci/audit.py, on made-up reports of pip-audit."""

import importlib.util
import json
import subprocess
import tomllib
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.running import ROOT


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOOD = {"name": "grpcio", "version": "1.85.1", "vulns": []}
BAD = {
    "name": "jinja2",
    "version": "2.10",
    "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": []}],
}
SKIPPED = {
    "name": "channeltok",
    "skip_reason": "Dependency not found on PyPI and could not be audited: channeltok (0.1.0)",
}


def test_read_returns_vulnerabilities_count_and_skipped_packages(audit: ModuleType) -> None:
    assert audit.read({"dependencies": [GOOD, SKIPPED]}) == ([], 1, ["channeltok"])
    assert audit.read({"dependencies": [GOOD, BAD]}) == (
        ["jinja2 2.10: PYSEC-2019-217, fixed in 2.10.1"],
        2,
        [],
    )
    # A mirror without advisories, which pip-audit reports as success.
    assert audit.read({"dependencies": [SKIPPED]}) is None


@pytest.mark.parametrize(
    ("report", "code", "says"),
    [
        ({"dependencies": [GOOD]}, 0, "1 packages looked up at pypi"),
        ({"dependencies": [GOOD, BAD]}, 1, "PYSEC-2019-217"),
        ({"dependencies": [SKIPPED]}, 0, "NOT CHECKED"),
        (None, 0, "NOT CHECKED"),
    ],
    ids=["good", "vulnerable", "mirror", "network"],
)
def test_main_fails_for_vulnerabilities_only(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    report: dict[str, object] | None,
    code: int,
    says: str,
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            command, 0, "" if report is None else json.dumps(report), ""
        )

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main(tomllib.loads(audit.BUNDLED.read_text())["reviewed"]) == code
    captured = capsys.readouterr()
    assert says in captured.out + captured.err


@pytest.mark.parametrize(("days", "code"), [(30, 0), (31, 1)])
def test_main_fails_after_thirty_days_without_an_audit(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    days: int,
    code: int,
) -> None:
    monkeypatch.setattr(
        audit.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "")
    )
    reviewed = tomllib.loads(audit.BUNDLED.read_text())["reviewed"]
    assert audit.main(reviewed + timedelta(days=days)) == code
    captured = capsys.readouterr()
    assert "NOT CHECKED" in captured.out
    assert "CVE-2025-23319 accepted" in captured.out
    assert ("no audit for 31 days" in captured.err) == bool(code)


def test_unknown_libraries_names_those_that_were_not_reviewed(audit: ModuleType) -> None:
    libraries = tomllib.loads(audit.BUNDLED.read_text())["library"]
    assert audit.unknown_libraries(libraries) == []
    (png,) = (library for library in libraries if library["name"] == "libpng")
    assert audit.unknown_libraries([png | {"version": "1.6.0"}]) == [
        f"{png['file']} is not libpng 1.6.0"
    ]
    (message,) = audit.unknown_libraries([png | {"wheel": "pillow==1.0"}])
    assert message.startswith("libpng of pillow ")
    assert audit.unknown_libraries([png | {"wheel": "not-installed==1.0"}]) == []


def test_changed_copies_names_files_that_were_not_reviewed(
    audit: ModuleType, tmp_path: Path
) -> None:
    copies = tomllib.loads(audit.BUNDLED.read_text())["copy"]
    assert audit.changed_copies(copies) == []
    for copy in copies:
        file = tmp_path / copy["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((ROOT / copy["file"]).read_bytes() + b" ")
    assert [sentence.split()[0] for sentence in audit.changed_copies(copies, tmp_path)] == [
        copy["file"] for copy in copies
    ]


def test_copies_are_of_the_versions_whose_types_are_checked(audit: ModuleType) -> None:
    pinned = json.loads((ROOT / "tests/web/package.json").read_text())["devDependencies"]
    for copy in tomllib.loads(audit.BUNDLED.read_text())["copy"]:
        assert pinned[copy["name"]] == copy["version"]


def test_differing_names_packages_that_differ_from_their_pin(audit: ModuleType) -> None:
    pins = audit.pinned(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    assert pins["tritonclient"] == "2.73.0"
    assert audit.differing(pins) == []
    assert audit.differing({"pytest": "0.1", "not-installed": "1"}) == [
        f"pytest {pytest.__version__} is installed, 0.1 is pinned"
    ]
