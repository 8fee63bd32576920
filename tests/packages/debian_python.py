"""Python of another release of Debian, unpacked into a folder; nothing is installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

LIBRARIES = "usr/lib/x86_64-linux-gnu"
# Runs the interpreter with its own C library and under the name that it was called by, from which
# Python finds its virtual environment.
SCRIPT = """#!/bin/sh
exec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries} --argv0 "$0" {interpreter} "$@"
"""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpack(release: str, folder: Path) -> Path:
    """The default Python of a release, such as "trixie", with the C library that it needs.

    Returns the path of a script that stands for the interpreter. A second call takes what is there.
    """
    script = folder / "usr/bin/python"
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        for package in _download(release, unfinished / "apt"):
            subprocess.run(["dpkg-deb", "--extract", package, unfinished], check=True)
        shutil.rmtree(unfinished / "apt")
        unfinished.rename(folder)
        interpreter = (folder / "usr/bin/python3").resolve()
        script.write_text(SCRIPT.format(libraries=folder / LIBRARIES, interpreter=interpreter))
        script.chmod(0o755)
    return script


def _download(release: str, folder: Path) -> list[Path]:
    """Packages of Python and all that it depends on, as for an empty system."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {release} main\n")
    settings = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Log": folder,
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "--yes", "--download-only", "python3"], check=True)
    return sorted((folder / "cache/archives").glob("*.deb"))


def _mirror() -> str:
    """Where this machine gets Debian's packages from."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    mirrors = re.findall(r"^\S+/debian/?$", listed.stdout, re.MULTILINE)
    assert mirrors, "apt has no source of Debian's packages"
    return str(mirrors[0])
