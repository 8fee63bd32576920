"""Each image's entry point imports with the packages of its extra alone.

All other distributions of this environment are hidden; tests/containers runs the real images.
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
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "service").rglob("*.py"))
    if path.stem != "__init__"
]
# Stage of the Dockerfile -> modules that it runs, those of Triton's python backend included.
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
    "acceptance": ["export.acceptance.__main__", "export.acceptance.served"],
}


def extras_of(stage: str) -> list[str]:
    """Extras that a stage of the Dockerfile and its base stages install."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    base, text = re.findall(
        rf"^FROM (\S+) AS {stage}$(.*?)(?=^FROM|\Z)", dockerfile, re.DOTALL | re.MULTILINE
    )[0]
    return [
        *(extras_of(base) if ":" not in base else []),
        *re.findall(r"requirements\.py (\w+)", text),
    ]


def closure(extras: list[str]) -> set[str]:
    """Names of all distributions that the project with these extras depends on."""
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


def import_with(
    extras: list[str], modules: list[str], without: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Import modules with only the standard library, this checkout and the extras visible."""
    allowed = closure(extras) - {without}
    owners = metadata.packages_distributions()
    hidden = {
        module
        for module, names in owners.items()
        if module != "channeltok" and not allowed & {canonicalize_name(name) for name in names}
    }
    program = [sys.executable, "-m", "tests.support.programs.import_without"]
    command = [*program, ",".join(sorted(hidden)), ",".join(modules)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("stage", MODULES)
def test_image_installs_what_its_entry_point_imports(stage: str) -> None:
    extras = extras_of(stage)
    assert extras
    if stage == "acceptance":  # onnxruntime-gpu replaces onnxruntime, and both are the same module
        extras = ["export"]
    done = import_with(extras, MODULES[stage])
    assert done.returncode == 0, done.stderr


def test_import_check_notices_a_missing_distribution() -> None:
    done = import_with(["gateway"], SERVICE, without="psutil")
    assert "No module named 'psutil'" in done.stderr
