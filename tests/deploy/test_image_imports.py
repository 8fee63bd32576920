"""Each image's entry point can be imported with what its extra installs, and nothing else.

All other distributions of this environment are hidden; tests/containers asks the images themselves.
"""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.compose import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVICE = [
    f"service.{path.stem}"
    for path in sorted((ROOT / "service").glob("*.py"))
    if path.stem != "__init__"
]
# Stage of the Dockerfile -> modules that it runs. Those of the python backend run in Triton's own process.
MODULES = {
    "gateway": SERVICE,
    "cpu": [*SERVICE, "onnxruntime", "openvino", "pytriton"],
    "loadtest": [
        "loadtest.load.locustfile",
        "loadtest.load.shapes.ramp",
        "loadtest.load.shapes.spike",
        "loadtest.load.shapes.soak",
    ],
    "export": ["export.__main__", "export.triton.triton_config", "export.triton.tensorrt_plans"],
    "acceptance": ["export.acceptance"],
}


def extras_of(stage: str) -> list[str]:
    """The extras that a stage of the Dockerfile installs, those of the stage below it included."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    base, text = re.findall(
        rf"^FROM (\S+) AS {stage}$(.*?)(?=^FROM|\Z)", dockerfile, re.DOTALL | re.MULTILINE
    )[0]
    return [
        *(extras_of(base) if ":" not in base else []),
        *re.findall(r"requirements\.py (\w+)", text),
    ]


def closure(extras: list[str]) -> set[str]:
    """Names of all distributions that the project with these extras needs, by the metadata of what is installed here."""
    pending = [Requirement(one) for one in PROJECT["dependencies"]]
    pending += [
        Requirement(one) for extra in extras for one in PROJECT["optional-dependencies"][extra]
    ]
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        if name == "channeltok":
            pending += [
                Requirement(one)
                for extra in requirement.extras
                for one in PROJECT["optional-dependencies"][extra]
            ]
            continue
        found.add(name)
        try:
            requires = metadata.requires(name) or []
        except (
            metadata.PackageNotFoundError
        ):  # for another system, or of an extra that is not installed here
            continue
        for one in map(Requirement, requires):
            wanted = requirement.extras or {""}
            if one.marker is None or any(
                one.marker.evaluate({"extra": extra}) for extra in {"", *wanted}
            ):
                pending.append(one)
    return found


HIDING = """
import importlib.abc, sys
hidden = set(sys.argv[1].split(","))
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in hidden or name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
for module in sys.argv[2].split(","):
    __import__(module)
"""


def import_with(
    extras: list[str], modules: list[str], without: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Import the modules in a process that sees the standard library, this checkout and what the extras need."""
    allowed = closure(extras) - {without}
    owners = metadata.packages_distributions()
    hidden = {
        module
        for module, names in owners.items()
        if module != "channeltok" and not allowed & {canonicalize_name(name) for name in names}
    }
    command = [sys.executable, "-c", HIDING, ",".join(sorted(hidden)), ",".join(modules)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("stage", MODULES)
def test_image_installs_what_its_entry_point_imports(stage: str) -> None:
    extras = extras_of(stage)
    assert extras
    if (
        stage == "acceptance"
    ):  # onnxruntime-gpu takes the place of onnxruntime, and both are one module
        extras = ["export"]
    done = import_with(extras, MODULES[stage])
    assert done.returncode == 0, done.stderr


def test_import_check_notices_a_missing_distribution() -> None:
    done = import_with(["gateway"], SERVICE, without="psutil")
    assert "No module named 'psutil'" in done.stderr
