"""The commands and snippets of docs/quickstart.md, on a real service with other ports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import ROOT, Service

TEXT = (ROOT / "docs/quickstart.md").read_text()
BIN = Path(sys.executable).parent
# Installs, or runs until it is stopped: tests of packages do that.
ELSEWHERE = re.compile(r"pip install .*|channeltok serve")
OWN_FOLDER = ("model_repository", "docs", "loadtest", "tokenizer", "export", "service", "imaging")


SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
# Section -> files that its commands and snippets make.
MADE = {
    "Encode and decode": ["cat.ctok", "back.png", "again.png"],
    "Whole datasets": ["tokens/.channeltok/manifest.json", "photos/cat.jpg"],
    "Health, metrics, alerts": [],
    "Load": [],
    "Checkpoints and models": ["cat-16.png", "models/mine_encode/config.pbtxt"],
}


def blocks(section: str, language: str) -> list[str]:
    """Fenced blocks of a language, in their order."""
    fenced = rf"^```{language}\n(.*?)^```"
    return re.findall(fenced, SECTIONS[section], re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout to the commands of the page, and may be written to."""
    folder = tmp_path_factory.mktemp("quickstart")
    for name in OWN_FOLDER:
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(command: list[str], folder: Path, service: Service) -> None:
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
    assert done.returncode == 0, done.stderr


def here(text: str, service: Service) -> str:
    """The text with this service's addresses."""
    text = text.replace("http://127.0.0.1:8080", service.rest)
    return text.replace("127.0.0.1:50051", service.grpc)


@pytest.mark.parametrize("section", MADE)
def test_quickstart_section_runs(service: Service, folder: Path, section: str) -> None:
    """Its commands, then its snippets, which may read their files."""
    commands = [
        line
        for block in blocks(section, "sh")
        for line in block.replace("\\\n", "").splitlines()
        if not ELSEWHERE.fullmatch(line)
    ]
    assert commands
    for command in commands:
        command = here(command, service)
        if command.startswith("channeltok ") and "--in-process" not in command:
            command += f" --server {service.grpc}"
        run(["bash", "-ec", f"set -o pipefail; {command}"], folder, service)
    for block in blocks(section, "python"):
        (folder / "snippet.py").write_text(here(block, service))
        run([sys.executable, "snippet.py"], folder, service)
    for name in MADE[section]:
        assert (folder / name).stat().st_size > 0


def test_quickstart_leads_each_kind_of_user_to_a_section() -> None:
    assert list(SECTIONS) == list(MADE)
    assert len(MADE) == 5
