"""`make release` on small repositories."""

import subprocess
from pathlib import Path

import pytest

from deploy.release import NotReleasable, check, newest_changes, release, version_of
from tests.support.running import ROOT

CHANGELOG = "# Changelog\n\n## 1.2.3\n\n### Added\n\n- All.\n\n## 1.2.2\n\n- Less.\n"


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=repository, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")
    git(tmp_path, "init", "--quiet")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all: begin")
    return tmp_path


def test_release_tags_a_checked_commit_with_its_changes(repository: Path) -> None:
    assert release(repository, ["true"], ["true"]) == "v1.2.3"
    assert git(repository, "rev-parse", "v1.2.3^{commit}") == git(repository, "rev-parse", "HEAD")
    message = git(repository, "tag", "--list", "--format=%(contents)", "v1.2.3").strip()
    assert message == "ChannelTok Serving 1.2.3\n\n### Added\n\n- All."


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("new.txt", "", "not committed"),
        ("pyproject.toml", '[project]\nversion = "1.3.0"\n', "1.3.0, CHANGELOG.md 1.2.3"),
        ("CHANGELOG.md", "## Unreleased\n\n- More.\n\n## 1.2.3\n", "must be a version"),
        ("CHANGELOG.md", "# Changelog\n", "must be a version"),
    ],
)
def test_release_refuses_what_does_not_fit_together(
    repository: Path, file: str, content: str, why: str
) -> None:
    (repository / file).write_text(content)
    if file != "new.txt":
        git(repository, "commit", "--all", "--quiet", "--message", "all: change")
    with pytest.raises(NotReleasable, match=why):
        release(repository, ["true"], ["true"])
    assert not git(repository, "tag")


@pytest.mark.parametrize(
    ("checks", "build", "why"),
    [
        (["false"], ["true"], "false failed"),
        (["true"], ["false"], "false failed"),
        (["touch", "left"], ["true"], "not committed"),
    ],
)
def test_release_refuses_a_commit_that_fails_its_checks(
    repository: Path, checks: list[str], build: list[str], why: str
) -> None:
    with pytest.raises(NotReleasable, match=why):
        release(repository, checks, build)
    assert not git(repository, "tag")


def test_release_makes_no_tag_twice(repository: Path) -> None:
    release(repository, ["true"], ["true"])
    with pytest.raises(NotReleasable, match=r"v1\.2\.3 exists"):
        check(repository)


def test_this_projects_changelog_begins_with_its_version() -> None:
    version, changes = newest_changes((ROOT / "CHANGELOG.md").read_text())
    assert version == version_of(ROOT)
    assert changes.startswith("The first version.")
