"""`python requirements.py EXTRA` prints the pinned dependencies of the project with that extra.

The image layer with the dependencies is then built from pyproject.toml alone. A changed line of
code does not install them again.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extra: str) -> list[str]:
    """Dependencies of the project and of one extra, with those of the extras that it names.

    Raises KeyError for an extra that the project does not have.
    """
    own = re.compile(rf"{project['name']}\[([\w,]+)\]")
    found = list(project["dependencies"])
    for requirement in project["optional-dependencies"][extra]:
        named = own.fullmatch(requirement)
        found += (
            [requirement]
            if named is None
            else [r for other in named[1].split(",") for r in requirements(project, other)]
        )
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    print(
        *requirements(tomllib.loads(Path("pyproject.toml").read_text())["project"], sys.argv[1]),
        sep="\n",
    )
