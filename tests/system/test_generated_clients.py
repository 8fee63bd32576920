"""Clients generated from docs/openapi.json alone encode, decode and read a problem."""

import base64
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from channeltok import Client

from deploy.openapi import FILE
from tests.support.node import INSTALLED, WEB, node
from tests.support.photographs import jpeg
from tests.support.running import Service

pytestmark = pytest.mark.skipif(not INSTALLED, reason="needs npm's packages: make test")
HEY_API = """export default {
  input: %s,
  output: { path: "hey_api", importFileExtension: ".ts" },
};
"""


def generate_openapi_typescript(folder: Path) -> None:
    program = "node_modules/openapi-typescript/bin/cli.js"
    node(program, FILE, "-o", folder / "openapi_typescript.d.ts", cwd=folder)


def generate_hey_api(folder: Path) -> None:
    (folder / "openapi-ts.config.mjs").write_text(HEY_API % json.dumps(str(FILE)))
    node("node_modules/@hey-api/openapi-ts/bin/run.js", cwd=folder)


def generate_openapi_python_client(folder: Path) -> None:
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", FILE]
    arguments = ["--meta", "none", "--output-path", folder / "channel_tok_serving_client"]
    subprocess.run([*command, *arguments], check=True, cwd=folder, timeout=120)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs of tests/web/clients, and the clients they import."""
    folder = tmp_path_factory.mktemp("clients")
    shutil.copytree(WEB / "clients", folder, dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "node_modules").symlink_to(WEB / "node_modules")
    generators = (generate_openapi_typescript, generate_hey_api, generate_openapi_python_client)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda generate: generate(folder), generators))
    (folder / "image.jpg").write_bytes(jpeg())
    return folder


def assert_works(printed: str, client: Client) -> None:
    result: dict[str, Any] = json.loads(printed)
    tokens = client.encode(jpeg(), 8)
    assert result["tokens"] == tokens.ids.tolist()
    assert base64.b64decode(result["image"]) == client.decode(tokens)
    assert result["problem"] == "BAD_K"


def test_generated_typescript_has_no_type_error(clients: Path) -> None:
    node("node_modules/typescript/bin/tsc", "-p", clients, cwd=clients)


@pytest.mark.parametrize("program", ["openapi_fetch.ts", "hey_api.ts"])
def test_generated_typescript_client_works(
    clients: Path, service: Service, client: Client, program: str
) -> None:
    arguments = (service.rest, clients / "image.jpg")
    assert_works(node(str(clients / program), *arguments, cwd=clients), client)


def test_generated_python_client_works(clients: Path, service: Service, client: Client) -> None:
    command = [sys.executable, clients / "python_client.py", service.rest, clients / "image.jpg"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert_works(done.stdout, client)
