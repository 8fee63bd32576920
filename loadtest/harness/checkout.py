"""Older commits of this repository, unpacked under build/, to be measured beside this one."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from loadtest.harness.service_process import ROOT, python_path

FOLDER = ROOT / "build/baseline"


def unpacked(commit: str) -> Path:
    """The folder with the files of `commit`, named by its short hash.

    Raises SystemExit if the repository has no such commit.
    """
    try:
        name = _git("rev-parse", "--short", "--verify", f"{commit}^{{commit}}").decode().strip()
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode().strip()
        raise SystemExit(f"no commit {commit} in this repository ({reason})") from error
    folder = FOLDER / name
    if not folder.exists():
        partial = folder.with_suffix(".part")
        with tarfile.open(fileobj=io.BytesIO(_git("archive", name))) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)
    return folder


def run_with(checkout: Path, program: Path, *arguments: str) -> Any:
    """Run a program with the packages of `checkout`; returns the JSON that it prints last.

    Raises subprocess.CalledProcessError if it fails; its stderr is shown.
    """
    result = subprocess.run(
        [sys.executable, "-P", str(program), *arguments],  # -P: not the packages beside the program
        cwd=checkout,
        env={**os.environ, **python_path(str(checkout))},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
