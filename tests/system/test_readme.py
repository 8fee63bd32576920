"""README's commands and snippet run as they stand, on a real service with other ports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import ROOT, Service

TEXT = (ROOT / "README.md").read_text()
CHANNELTOK = str(Path(sys.executable).with_name("channeltok"))
PROGRAMS = (".venv/bin/channeltok ", ".venv/bin/python ", "curl ")


def commands() -> list[str]:
    """Lines of the blocks of shell commands that call the service or run an engine."""
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
    return [line for line in blocks.splitlines() if line.startswith(PROGRAMS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the checkout to the commands of the README."""
    for name in ("docs", "model_repository"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'client'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_readme_commands_run(service: Service, folder: Path) -> None:
    assert len(commands()) >= 6
    for command in commands():
        command = command.replace("http://127.0.0.1:8080", service.rest)
        if "/channeltok " in command and "--in-process" not in command:
            command += f" --server {service.grpc}"
        command = command.replace(".venv/bin/python", sys.executable)
        run(["bash", "-c", command.replace(".venv/bin/channeltok", CHANNELTOK)], folder)
    assert (folder / "back.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "cat.ctok").read_bytes().startswith(b"CTOK")
    assert list((folder / "tokens").glob("*.parquet"))


def test_readme_snippet_runs(service: Service, folder: Path) -> None:
    (snippet,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (folder / "snippet.py").write_text(snippet.replace("127.0.0.1:50051", service.grpc))
    run([sys.executable, "snippet.py"], folder)
