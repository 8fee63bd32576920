"""Dependency audit of `make check`: versions match the pins, no package has a known vulnerability.

    python .ci/audit.py            exits 1 for a vulnerability or a broken or differing dependency

Advisories come from PyPI or else from OSV. If neither can be reached, the audit says so, and fails
once the last review of .ci/bundled.toml is `MAX_AGE_DAYS` old. That file names what no source of
advisories knows: libraries inside wheels, with their accepted vulnerabilities, and copies of other
projects' files in this repository.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"
BUNDLED = Path(__file__).with_name("bundled.toml")
MAX_AGE_DAYS = 30
SOURCES = ("pypi", "osv")
ACCEPTED: dict[str, str] = {}  # advisory -> why it does not affect us


def pinned(pyproject: dict[str, Any]) -> dict[str, str]:
    """Pinned direct dependencies of all extras: name -> version."""
    extras = pyproject["project"]["optional-dependencies"].values()
    matches = (
        re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)(?:; .+)?", requirement)
        for extra in extras
        for requirement in extra
    )
    return {match[1]: match[2] for match in matches if match is not None}


def differing(pins: dict[str, str]) -> list[str]:
    """A sentence per package installed in another version than pinned.

    Packages that are not installed belong to other extras.
    """
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
    """Run pip-audit; see `read`. None if the source cannot be reached."""
    options = (
        f"--skip-editable --progress-spinner=off --format=json --vulnerability-service={source}"
    )
    command = [sys.executable, "-m", "pip_audit", *options.split()]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return read(json.loads(result.stdout))
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None


def read(report: dict[str, Any]) -> tuple[list[str], int, list[str]] | None:
    """(vulnerabilities, number of audited packages, names of skipped ones) of pip-audit's report.

    None if all packages were skipped: with a mirror that has no advisories, pip-audit reports
    success all the same.
    """
    audited = [package for package in report["dependencies"] if "skip_reason" not in package]
    skipped = [package["name"] for package in report["dependencies"] if "skip_reason" in package]
    if not audited:
        return None
    vulnerabilities = []
    for package in audited:
        for advisory in package["vulns"]:
            if advisory["id"] not in ACCEPTED:
                fixed = ", ".join(advisory["fix_versions"]) or "no version"
                vulnerabilities.append(
                    f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}"
                )
    return vulnerabilities, len(audited), skipped


def unknown_libraries(libraries: list[dict[str, Any]]) -> list[str]:
    """A sentence per library that is not the reviewed one: by its wheel, and by its file if named.

    Wheels that are not installed belong to other extras.
    """
    sentences = []
    for library in libraries:
        name, _, reviewed = library["wheel"].partition("==")
        try:
            wheel = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if wheel.version != reviewed:
            sentences.append(
                f"{library['name']} of {name} {wheel.version} was not reviewed, "
                f"only that of {reviewed}: "
                f"see {BUNDLED.name}"
            )
        elif "file" in library:
            wanted = f"{library['name']} version {library['version']}".encode()
            files = Path(str(wheel.locate_file(""))).glob(library["file"])
            if not any(wanted in file.read_bytes() for file in files):
                sentences.append(f"{library['file']} is not {library['name']} {library['version']}")
    return sentences


def changed_copies(copies: list[dict[str, str]], root: Path = ROOT) -> list[str]:
    """A sentence per file that is not the copy that was reviewed. root: of the repository."""
    return [
        f"{copy['file']} is not that of {copy['name']} {copy['version']}: see {BUNDLED.name}"
        for copy in copies
        if hashlib.sha256((root / copy["file"]).read_bytes()).hexdigest() != copy["sha256"]
    ]


def main(today: date | None = None) -> int:
    """Print all problems; returns the exit code."""
    problems = differing(pinned(tomllib.loads(PYPROJECT.read_text())))
    bundled = tomllib.loads(BUNDLED.read_text())
    problems += unknown_libraries(bundled["library"]) + changed_copies(bundled["copy"])
    for library in bundled["library"]:
        for advisory, why in library.get("accepted", {}).items():
            print(f"audit: {library['name']} {library['version']}: {advisory} accepted: {why}")
    age = ((today or date.today()) - bundled["reviewed"]).days
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    check = subprocess.run(command, capture_output=True, text=True)
    if check.returncode:
        problems += check.stdout.splitlines()
    for source in SOURCES:
        if (outcome := advisories(source)) is not None:
            vulnerabilities, audited, skipped = outcome
            problems += vulnerabilities
            unknown = ", ".join(skipped) or "none"
            print(f"audit: {audited} packages looked up at {source}; not known there: {unknown}")
            break
    else:
        print(
            f"audit: advisories NOT CHECKED, cannot reach {' or '.join(SOURCES)}; "
            f"versions and consistency were checked; last review {age} days ago"
        )
        if age > MAX_AGE_DAYS:
            problems.append(
                f"no audit for {age} days, {MAX_AGE_DAYS} are allowed: run it where "
                f"{' or '.join(SOURCES)} can be reached, review {BUNDLED.name}, and set its date"
            )
    for problem in problems:
        print(f"audit: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
