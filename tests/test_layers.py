"""Import rules: what each package may import, the floors of service/, and no cycle anywhere.

Every import statement counts, also within functions and under TYPE_CHECKING.
"""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.running import ROOT

FOLDERS = {  # package -> the folder it is in
    "channeltok": "client",
    **dict.fromkeys(
        ("imaging", "tokenizer", "generator", "export", "service", "loadtest", "deploy"), "."
    ),
}
# Package -> what it must not import.
FORBIDDEN = {
    "channeltok": {*FOLDERS, "torch"} - {"channeltok"},
    "imaging": {*FOLDERS, "torch"} - {"imaging"},
    "tokenizer": {"generator", "export", "service", "loadtest"},
    "generator": {"export", "service", "loadtest"},
    "export": {"service", "loadtest"},
    "service": {"torch", "tokenizer", "generator", "export", "loadtest"},
}
# What a module may import all the same, for callers who have it: within functions, or in a module
# that no other imports.
ALLOWED = {("channeltok.images", "torch")} | {
    ("channeltok.datasets.torch_loader", name) for name in ("torch", "torch.utils.data")
}
# What modules of channeltok.local may import: it is for callers of the extra `local`.
LOCAL = {
    "imaging",
    "imaging.fit",
    "imaging.similarity",
    "export.triton.python_backend",
    "tokenizer.module",
    "torch",
}
# Each part of service/ imports only itself and parts on lower floors.
FLOORS = [
    {"errors", "machine", "systemd"},
    {"settings", "observability"},
    {"triton", "security"},
    {"core"},
    {"engine", "grpc", "rest", "ports", "worker_pipe"},
    {"gateway", "in_process", "health_check"},
    {"workers"},
    {"__main__"},
]
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for file in (ROOT / folder / package).rglob("*.py"):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), file


FILES = dict(modules())


def imports(module: str) -> set[str]:
    """Modules that `module` imports: the repository's by their full names, others as written."""
    names = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module} has a relative import"
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else node.module for name in parts}
    return names


IMPORTS = {module: imports(module) for module in FILES}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_forbidden(package: str) -> None:
    broken = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if module.partition(".")[0] == package
        and name.partition(".")[0] in FORBIDDEN[package]
        and (module, name) not in ALLOWED
        and not (module.startswith("channeltok.local.") and name in LOCAL)
    ]
    assert not broken


def test_parts_of_service_import_only_lower_floors() -> None:
    broken = []
    for module, names in IMPORTS.items():
        for name in names:
            if module.startswith("service.") and name.startswith("service."):
                importer, imported = (path.split(".")[1] for path in (module, name))
                assert FLOOR.keys() >= {importer, imported}, "a new part needs a floor"
                if importer != imported and FLOOR[importer] <= FLOOR[imported]:
                    broken.append(f"{module} imports {name}")
    assert not broken


def test_no_import_cycle() -> None:
    graph = {module: names & FILES.keys() for module, names in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_tokenizer_models_import_neither_training_nor_evaluation() -> None:
    above = ("tokenizer.training", "tokenizer.evaluation")
    broken = {
        module: {name for name in names if name.startswith(above)}
        for module, names in IMPORTS.items()
        if module.startswith("tokenizer.models")
    }
    assert broken
    assert not any(broken.values()), broken


def test_no_test_imports_from_another_test() -> None:
    pattern = re.compile(r"^\s*from tests\.\S*\btest_\w+ import", re.MULTILINE)
    files = (ROOT / "tests").rglob("*.py")
    assert not [str(file) for file in files if pattern.search(file.read_text())]
