"""The client in fresh environments: the oldest Python and packages that it allows, and the newest.

Pythons are those of this machine, else Debian's. Debian has no 3.10: on a machine without it the
oldest packages run on this environment's Python, and only `make check` has mypy read the client as
3.10 does.
"""

import ast
import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.parser import Parser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from channeltok import Client

from tests.packages.debian_python import unpack
from tests.packages.environments import PYPROJECT, Environment, find_python, oldest, run
from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service, running

pytestmark = pytest.mark.packages
# What the client's own tests need.
TESTS_NEED = ["hypothesis", "pytest", "pytest-asyncio", "pytest-timeout", "structlog"]
# Folders of them that need more: engines of the service, or PyTorch.
NOT_RUN = ["tests/client/datasets", "tests/client/local"]
PYTHONS = ROOT / "build/packages"


class Case(NamedTuple):
    """version: of Python; its release of Debian, if any; and which major version of protobuf.

    also: packages of users whose images the client takes.
    """

    version: str
    release: str | None
    protobuf: str
    constraints: list[str]
    also: tuple[str, ...] = ()

    def interpreter(self) -> Path:
        found = find_python(self.version)
        if found is None and self.release is not None:
            found = unpack(self.release, PYTHONS / self.release)
        return found or Path(sys.executable)


CASES = {
    "oldest": Case("3.10", None, "6", oldest("batch", "local")),
    "3.13": Case("3.13", "trixie", "7", [], ("jax",)),
    "3.14": Case("3.14", "sid", "6", ["protobuf<7"]),
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def environments(
    wheel: Path, pip: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Environment]:
    folder = tmp_path_factory.mktemp("environments")

    def make(name: str) -> Environment:
        made = Environment(CASES[name].interpreter(), folder / name)
        case = CASES[name]
        packages = (f"{wheel}[batch,local]", *TESTS_NEED, *case.also)
        made.install(pip, *packages, constraints=case.constraints)
        return made

    with ThreadPoolExecutor() as pool:
        return dict(zip(CASES, pool.map(make, CASES), strict=True))


def test_metadata_has_no_upper_bound_of_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Version"] == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("name", CASES)
def test_client_works_on_a_real_service(
    name: str, environments: dict[str, Environment], service: Service, tmp_path: Path
) -> None:
    (tmp_path / "image.jpg").write_bytes(jpeg())
    program = ROOT / "tests/support/programs/round_trip.py"
    python = environments[name].python
    printed = run([python, program, service.grpc, tmp_path / "image.jpg", tmp_path], cwd=tmp_path)
    found: dict[str, Any] = json.loads(printed)

    with Client(service.grpc) as client:
        tokens = client.encode(jpeg(), k=8)
        decoded = client.decode(tokens, "png")
    ids = tokens.ids.tolist()
    assert found["ids"] == found["async_ids"] == ids
    assert found["decoded"] == hashlib.sha256(decoded).hexdigest()
    assert found["code"] == "BAD_IMAGE"
    assert found["streamed"] == [ids, "BAD_IMAGE", ids]
    assert found["async_streamed"] == found["rows"] == [ids] * 3
    assert len(found["in_process"]) == 8  # another release of an engine may round differently
    assert found["installed"].startswith(str(environments[name].folder))
    assert found["protobuf"].partition(".")[0] == CASES[name].protobuf


@pytest.mark.parametrize("name", CASES)
def test_client_passes_its_tests(name: str, environments: dict[str, Environment]) -> None:
    options = ["-q", "-rs", "-p", "no:cacheprovider", *(f"--ignore={path}" for path in NOT_RUN)]
    python = environments[name].python
    printed = run([python, "-m", "pytest", "tests/client", *options], cwd=ROOT)
    assert " passed" in printed.splitlines()[-1]
    assert not any(f"could not import '{package}'" in printed for package in CASES[name].also)


def test_oldest_versions_are_the_installed_ones(environments: dict[str, Environment]) -> None:
    for constraint in CASES["oldest"].constraints:
        package, _, version = constraint.partition("==")
        assert environments["oldest"].version(package).startswith(version)


def test_wheel_imports_only_what_it_holds_and_below_its_own_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        code = {name: archive.read(name) for name in names if name.endswith(".py")}
    assert {name.partition("/")[0] for name in names} == {
        "channeltok",
        f"channeltok-{PYPROJECT['project']['version']}.dist-info",
    }
    ours = {file.name for file in ROOT.iterdir() if (file / "__init__.py").exists()}
    for name, text in code.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert not ours & {alias.name.partition(".")[0] for alias in node.names}, name
            elif isinstance(node, ast.ImportFrom) and node.module:
                top, *rest = node.module.split(".")
                assert top not in ours, name
                if top != "channeltok":
                    continue
                module = "/".join([top, *rest])
                assert {f"{module}.py", f"{module}/__init__.py"} & code.keys(), node.module
                for alias in node.names:
                    part = "/".join([*rest, f"{alias.name}.py"])
                    if (ROOT / part).exists() or (ROOT / "client/channeltok" / part).exists():
                        assert f"channeltok/{part}" in code, name
