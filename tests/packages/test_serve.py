"""`pip install 'channeltok[serve]'` and `channeltok serve`, without a checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.packages.environments import Environment, run
from tests.support.running import READY, ROOT

pytestmark = pytest.mark.packages
# From a finished download to ready. It is 90 where nothing else runs; CI builds images meanwhile.
SECONDS = 180.0
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def installed(
    wheel: Path, pip: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Environment, float]:
    """The environment, and the seconds that it took to install what was downloaded before."""
    folder = tmp_path_factory.mktemp("serve")
    made = Environment(sys.executable, folder / "venv")
    made.pip(pip, "download", "--dest", folder / "wheels", f"{wheel}[serve]")
    began = time.monotonic()
    made.pip(pip, "install", "--no-index", "--find-links", folder / "wheels", f"{wheel}[serve]")
    return made, time.monotonic() - began


@pytest.fixture(scope="module")
def environment(installed: tuple[Environment, float]) -> Environment:
    return installed[0]


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
    with subprocess.Popen(
        [environment.folder / "bin/channeltok", "serve", "--rest-port", "0", "--grpc-port", "0"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield _ready(process.stdout)
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
        finally:
            process.kill()


def _ready(output: IO[str] | None) -> re.Match[str]:
    """The line that says where the service is. Read on, so that it never waits for a reader."""
    assert output is not None
    lines = []
    for line in output:
        lines.append(line)
        assert line.startswith("{") or not line.strip() or READY.search(line), line  # JSON
        if found := READY.search(line):
            threading.Thread(target=output.read, daemon=True).start()
            return found
    raise AssertionError("the service did not start: " + "".join(lines))


def test_service_is_ready_soon(installed: tuple[Environment, float], served: re.Match[str]) -> None:
    print(f"installed in {installed[1]:.0f} s, ready in {served[1]} s")
    assert installed[1] + float(served[1]) < SECONDS


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


def test_tokenizer_in_process_gives_the_tokens_of_the_service(
    served: re.Match[str], environment: Environment, folder: Path
) -> None:
    code = """
from channeltok import Tokenizer
tokenizer = Tokenizer.from_pretrained("demo")
print(tokenizer.encode("docs/images/cat.jpg", k=64).ids.tolist())
"""
    printed = run([environment.python, "-I", "-c", code], cwd=folder)
    url = f"{served[2]}/v1/encode?k=64"
    reply = json.loads(run(["curl", "-sf", "--data-binary", "@docs/images/cat.jpg", url], folder))
    assert json.loads(printed) == reply["tokens"]


def test_installing_it_adds_no_name_but_its_own(environment: Environment, folder: Path) -> None:
    code = "import importlib.util as u, json; print(json.dumps([n for n in {} if u.find_spec(n)]))"
    names = [path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()]
    assert {"service", "imaging", "export", "tokenizer"} <= set(names)
    assert json.loads(run([environment.python, "-I", "-c", code.format(names)])) == []
