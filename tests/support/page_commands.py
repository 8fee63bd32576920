"""Run the shell commands and snippets of a page as they stand, on a service with other ports."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.support.running import ROOT, Service

BIN = Path(sys.executable).parent
# Installs, or runs until it is stopped: tests of packages do that.
ELSEWHERE = re.compile(r"pip install .*|channeltok serve")


def sections(text: str) -> dict[str, str]:
    """Heading -> text of each section of the second level."""
    found = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return dict(found)


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """Each command of the shell blocks; continued lines are joined."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", "").splitlines()
    return [line for line in lines if line and not ELSEWHERE.fullmatch(line)]


def link_folders(folder: Path, names: Iterable[str]) -> None:
    """Make `folder` look like the checkout to the commands of a page; it may be written to."""
    for name in names:
        (folder / name).symlink_to(ROOT / name)


def run_command(command: str, folder: Path, service: Service) -> str:
    """Run a shell command with the addresses of `service`; returns what it printed.

    Raises AssertionError, with its output, if it fails.
    """
    command = _with_addresses(command, service)
    if re.match(r"(\S*/)?channeltok ", command) and not re.search("--(in-process|server)", command):
        command += f" --server {service.grpc}"
    return _run(["bash", "-ec", f"set -o pipefail; {command}"], folder, service)


def run_snippet(snippet: str, folder: Path, service: Service) -> str:
    """Run a Python snippet with the addresses of `service`; returns what it printed."""
    (folder / "snippet.py").write_text(_with_addresses(snippet, service))
    return _run([sys.executable, "snippet.py"], folder, service)


def _with_addresses(text: str, service: Service) -> str:
    text = text.replace("http://127.0.0.1:8080", service.rest)
    return text.replace("127.0.0.1:50051", service.grpc)


def _run(command: list[str], folder: Path, service: Service) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'client'}:{ROOT}",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "LOCUST_HOST": service.rest,
            "LOCUST_GRPC": service.grpc,
            "HF_DATASETS_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout
