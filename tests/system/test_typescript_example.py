"""docs/examples/typescript follows the steps of docs/contract.md, on a real service."""

import base64
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from channeltok import Client

from tests.support.node import INSTALLED, WEB, node
from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service

pytestmark = pytest.mark.skipif(not INSTALLED, reason="needs npm's packages: make test")
EXAMPLE = ROOT / "docs/examples/typescript/client.ts"
GENERATOR = "node_modules/@grpc/proto-loader/build/bin/proto-loader-gen-types.js"


def documented(program: str) -> list[str]:
    """Arguments of a command of the page."""
    page = (ROOT / "docs/contract.md").read_text().replace("\\\n", "")
    (line,) = re.findall(rf"^(?:npx )?{program} (.+)$", page, re.MULTILINE)
    return shlex.split(line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its types."""
    made = tmp_path_factory.mktemp("typescript")
    shutil.copy(EXAMPLE, made)
    shutil.copy(WEB / "clients/tsconfig.json", made)
    (made / "package.json").write_text('{"type": "module"}')
    (made / "node_modules").symlink_to(WEB / "node_modules")
    (made / "proto").symlink_to(ROOT / "proto")
    (made / "cat.jpg").write_bytes(jpeg())
    node(GENERATOR, *documented("proto-loader-gen-types"), cwd=made)
    return made


def test_example_has_no_type_error(folder: Path) -> None:
    node("node_modules/typescript/bin/tsc", "-p", folder, cwd=folder)


def test_example_encodes_decodes_and_reads_a_code(
    folder: Path, service: Service, client: Client
) -> None:
    program, address, *arguments = documented("node")
    printed = json.loads(node(str(folder / program), service.grpc, *arguments, cwd=folder))

    assert address == "127.0.0.1:50051"
    tokens = client.encode(jpeg(), 8)
    assert printed["k"] == 8
    assert base64.b64decode(printed["tokens"]) == tokens.to_bytes()
    assert base64.b64decode(printed["image"]) == client.decode(tokens)
    assert printed["refused"] == "BAD_K"
