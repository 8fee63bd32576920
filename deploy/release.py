"""`make release`: check that the commit is fit for a release, build the wheel, and tag it.

Nothing is published: the last lines say how.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ["make", "wheel"]


class NotReleasable(Exception):
    """The commit cannot be released; the message says why."""


def version_of(root: Path) -> str:
    """The version that pyproject.toml names."""
    version: str = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    return version


def newest_changes(changelog: str) -> tuple[str, str]:
    """Version and text of the first section of a changelog.

    Raises NotReleasable if it has none, or lists changes that have no version yet.
    """
    found = re.search(r"^## (\S+).*\n((?:(?!## ).*\n?)*)", changelog, re.MULTILINE)
    if found is None or not re.fullmatch(r"\d+\.\d+\.\d+", found[1]):
        raise NotReleasable("the first section of CHANGELOG.md must be a version, as ## 1.2.3")
    return found[1], found[2].strip()


def check(root: Path) -> tuple[str, str]:
    """The tag to make and its message. Raises NotReleasable."""
    if changed := _git(root, "status", "--porcelain"):
        raise NotReleasable(f"these files are not committed:\n{changed}")
    version = version_of(root)
    described, changes = newest_changes((root / "CHANGELOG.md").read_text())
    if described != version:
        raise NotReleasable(f"pyproject.toml has version {version}, CHANGELOG.md {described}")
    tag = f"v{version}"
    if _git(root, "tag", "--list", tag):
        raise NotReleasable(f"the tag {tag} exists: set the next version")
    return tag, f"ChannelTok Serving {version}\n\n{changes}\n"


def release(root: Path, checks: list[str], build: list[str]) -> str:
    """Run the commands `checks` and `build`, then tag the commit. Returns the tag.

    Raises NotReleasable, also if a command fails or changes a tracked file.
    """
    check(root)
    for command in (checks, build):
        if subprocess.run(command, cwd=root, check=False).returncode:
            raise NotReleasable(f"{shlex.join(command)} failed")
    tag, message = check(root)
    # Headings of the changelog begin with #, which git would take for comments.
    _git(root, "tag", "--annotate", "--cleanup=verbatim", "--message", message, tag)
    return tag


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument(
        "--checks", default="bash .ci/run", help="command that must succeed; default: %(default)s"
    )
    options = parser.parse_args()
    try:
        tag = release(ROOT, shlex.split(options.checks), BUILD)
    except NotReleasable as error:
        sys.exit(f"release: {error}")
    print(f"Tagged {tag}; the wheel is in dist/. To publish them:")
    print(f"  git push origin {tag}")
    print("  python -m twine upload dist/*.whl")


if __name__ == "__main__":
    main()
