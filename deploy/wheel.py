"""Hook of hatchling that chooses what is in the wheel: the client, and all that serving needs.

The checkout has several packages in its root. In the wheel they lie below `channeltok`, so that
nobody's own `service` or `imaging` is hidden: `service/gateway.py` becomes
`channeltok/service/gateway.py`. Their imports of each other are rewritten to match, and nothing
else is changed (docs/decisions/0055-one-package.md).
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CLIENT = Path("client")  # what lies in it has the same name in the wheel
TOP = "channeltok"


class UnsupportedImport(Exception):
    """An import that cannot be rewritten."""


class CustomBuildHook(BuildHookInterface[Any]):  # type: ignore[misc]  # of Any
    """Finds files below the option `include`, paths of files and folders; others are skipped.

    A build from a part of the checkout, as in the Dockerfile, has that part, with its imports.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to a wheel. Raises UnsupportedImport."""
        if version == "editable":
            return
        root = Path(self.root)
        files = list(included(root, self.config["include"]))
        moved = {file.parts[0] for file in files} - {CLIENT.name}
        self._rewritten = TemporaryDirectory(prefix="channeltok-wheel-")  # until it is packed
        rewritten = Path(self._rewritten.name)
        for file in files:
            source, place = root / file, place_of(file)
            if file.suffix == ".py":
                code = source.read_text(encoding="utf-8")
                source = rewritten / place
                source.parent.mkdir(parents=True, exist_ok=True)
                source.write_text(rewrite(code, moved), encoding="utf-8")
            build_data["force_include"][str(source)] = str(place)


def included(root: Path, paths: Iterable[str]) -> Iterator[Path]:
    """Files at and below `paths`, which are relative to `root`, as they are; no compiled code."""
    for path in paths:
        below = sorted((root / path).rglob("*")) if (root / path).is_dir() else [root / path]
        for file in below:
            if file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(root)


def place_of(file: Path) -> Path:
    """Where a file of the checkout is in the wheel."""
    return file.relative_to(CLIENT) if file.is_relative_to(CLIENT) else TOP / file


def rewrite(code: str, moved: set[str]) -> str:
    """The code with imports of the packages `moved` from where they are in the wheel.

    Raises UnsupportedImport for `import package.module`, which binds the name of the package.
    """
    lines = code.splitlines(keepends=True)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.partition(".")[0] in moved:
                _replace(lines, node, f"from {node.module} ", f"from {TOP}.{node.module} ")
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.partition(".")[0] not in moved:
                    continue
                if "." in name.name or len(node.names) > 1:
                    raise UnsupportedImport(f"import {name.name}: write `from ... import` instead")
                _replace(lines, node, f"import {name.name}", f"from {TOP} import {name.name}")
    return "".join(lines)


def _replace(lines: list[str], node: ast.stmt, old: str, new: str) -> None:
    line = lines[node.lineno - 1]
    start, rest = line[: node.col_offset], line[node.col_offset :]
    assert rest.startswith(old), rest
    lines[node.lineno - 1] = start + new + rest.removeprefix(old)
