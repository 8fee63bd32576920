"""`pip install 'channeltok[serve]'` and `channeltok serve`, without a checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages.environments import Environment, run
from tests.support.running import READY, ROOT

pytestmark = pytest.mark.packages
SECONDS = 90.0  # from a finished download to ready
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def environment(wheel: Path, pip: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(sys.executable, tmp_path_factory.mktemp("serve") / "venv")
    made.install(pip, f"{wheel}[serve]")
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's folder, with photos and with modules named as ours."""
    made = tmp_path_factory.mktemp("stranger")
    shutil.copytree(ROOT / "docs/images", made / "docs/images", ignore=_all_but_photos)
    for name in ("service", "imaging", "export"):
        (made / f"{name}.py").write_text("raise SystemExit('the module of a stranger')\n")
    return made


def _all_but_photos(_: str, names: list[str]) -> set[str]:
    return {name for name in names if not name.endswith(".jpg")}


@pytest.fixture(scope="module")
def served(environment: Environment, folder: Path) -> Iterator[re.Match[str]]:
    """What the service prints when it is ready."""
    process = subprocess.Popen(
        [environment.folder / "bin/channeltok", "serve", "--rest-port", "0", "--grpc-port", "0"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = READY.search(process.stdout.readline())
        assert ready is not None, "the service did not start"
        yield ready
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    finally:
        process.kill()


def test_service_is_ready_soon(served: re.Match[str]) -> None:
    assert float(served[1]) < SECONDS


def test_readme_curl_works(served: re.Match[str], folder: Path) -> None:
    lines = [line for line in README.splitlines() if line.startswith("curl ")]
    assert len(lines) == 2
    for line in lines:
        run(["bash", "-c", line.replace("http://127.0.0.1:8080", served[2])], cwd=folder)
    assert (folder / "back.png").read_bytes().startswith(b"\x89PNG")


def test_page_is_there(served: re.Match[str], folder: Path) -> None:
    for path in ("/", "/live", "/docs"):
        assert "<html" in run(["curl", "-sf", served[2] + path], cwd=folder)


def test_commands_work(served: re.Match[str], environment: Environment, folder: Path) -> None:
    channeltok = environment.folder / "bin/channeltok"
    server = ["--server", served[4]]
    run([channeltok, "encode", "docs/images/cat.jpg", "-o", "cat.ctok", *server], cwd=folder)
    run([channeltok, "decode", "cat.ctok", "-o", "cat.png", *server], cwd=folder)
    assert (folder / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_datasets_are_tokenized_in_process_as_by_the_service(
    served: re.Match[str], environment: Environment, folder: Path
) -> None:
    channeltok = environment.folder / "bin/channeltok"
    tokenize = [channeltok, "tokenize", "docs/images", "-k", "64"]
    run([*tokenize, "here", "--in-process"], cwd=folder)
    run([*tokenize, "there", "--server", served[4]], cwd=folder)
    here, there = (sorted((folder / name).glob("*.parquet")) for name in ("here", "there"))
    assert [file.read_bytes() for file in here] == [file.read_bytes() for file in there] != []


def test_installing_it_adds_no_name_but_its_own(environment: Environment, folder: Path) -> None:
    code = "import importlib.util as u, json; print(json.dumps([n for n in {} if u.find_spec(n)]))"
    names = [path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()]
    assert {"service", "imaging", "export", "tokenizer"} <= set(names)
    assert json.loads(run([environment.python, "-I", "-c", code.format(names)])) == []
