"""Dependency audit: is the environment whole and as pinned, and does anything in it have a known vulnerability?

    python .ci/audit.py            exits 1 for a vulnerability, a broken or a differing dependency; 0 otherwise

Advisories come over the network, from PyPI or else from OSV. Where neither can be reached, that is said in one line and is no failure.
"""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
SOURCES = ("pypi", "osv")
ACCEPTED: dict[str, str] = {}  # advisory -> why it does not concern us


def pinned(pyproject: dict[str, Any]) -> dict[str, str]:
    """The direct dependencies that are pinned, name -> version, of all extras."""
    requirements = [
        one for extra in pyproject["project"]["optional-dependencies"].values() for one in extra
    ]
    found = (re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", one) for one in requirements)
    return {match[1]: match[2] for match in found if match is not None}


def differing(pins: dict[str, str]) -> list[str]:
    """Those installed in another version than the pinned one. What is not installed belongs to another extra."""
    sentences = []
    for name, version in pins.items():
        try:
            installed = metadata.version(name).partition("+")[0]  # torch 2.13.0+cpu is 2.13.0
        except metadata.PackageNotFoundError:
            continue
        if installed != version:
            sentences.append(f"{name} {installed} is installed, {version} is pinned")
    return sentences


def advisories(source: str) -> tuple[list[str], int, list[str]] | None:
    """Vulnerabilities found, number of packages looked up, and those that could not be; None when the source was out of reach."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--skip-editable",
        "--progress-spinner=off",
        "--format=json",
        f"--vulnerability-service={source}",
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return read(json.loads(result.stdout))
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None


def read(report: dict[str, Any]) -> tuple[list[str], int, list[str]] | None:
    """pip-audit's report. Against a mirror that has no advisories it skips every package and calls that a success; here it is None."""
    audited = [one for one in report["dependencies"] if "skip_reason" not in one]
    skipped = [one["name"] for one in report["dependencies"] if "skip_reason" in one]
    if not audited:
        return None
    found = [
        f"{one['name']} {one['version']}: {vulnerability['id']}, fixed in {', '.join(vulnerability['fix_versions']) or 'no version'}"
        for one in audited
        for vulnerability in one["vulns"]
        if vulnerability["id"] not in ACCEPTED
    ]
    return found, len(audited), skipped


def main() -> int:
    problems = differing(pinned(tomllib.loads(PYPROJECT.read_text())))
    whole = subprocess.run(
        [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
    )
    if whole.returncode:
        problems += whole.stdout.splitlines()
    for source in SOURCES:
        if (outcome := advisories(source)) is not None:
            found, audited, skipped = outcome
            problems += found
            print(
                f"audit: {audited} packages looked up at {source}; not known there: {', '.join(skipped) or 'none'}"
            )
            break
    else:
        print(
            f"audit: NOT DONE for advisories, none of {', '.join(SOURCES)} can be reached from here; versions and consistency were checked"
        )
    for problem in problems:
        print(f"audit: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
