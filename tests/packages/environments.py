"""Fresh environments with the project's wheel, outside the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.running import ROOT

PIP = "pip==26.0"  # of every environment: the one that comes with an old Python may be too old
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def build_wheel(folder: Path) -> Path:
    """The wheel of the working tree."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run([*command, "--no-build-isolation", "--wheel-dir", folder, ROOT])
    (wheel,) = folder.glob("channeltok-*.whl")
    return wheel


class Environment:
    """A virtual environment of an interpreter, without packages."""

    def __init__(self, interpreter: str | Path, folder: Path) -> None:
        run([interpreter, "-m", "venv", "--without-pip", folder])
        self.folder = folder
        self.python = folder / "bin/python"

    def install(
        self, pip: Path, *requirements: str | Path, constraints: Iterable[str] = ()
    ) -> None:
        """Install with the wheel `pip` of pip, which is run and not installed."""
        limits = self.folder / "constraints.txt"
        limits.write_text("".join(f"{line}\n" for line in constraints))
        self.pip(pip, "install", "--no-compile", "--constraint", limits, *requirements)

    def pip(self, pip: Path, *arguments: str | Path) -> None:
        """Run a command of that pip."""
        run([self.python, pip / "pip", "--quiet", *arguments])

    def version(self, package: str) -> str:
        """Version of an installed package."""
        code = f"from importlib.metadata import version; print(version({package!r}))"
        return run([self.python, "-c", code], cwd=self.folder).strip()


def find_python(version: str) -> Path | None:
    """An interpreter of a version, such as "3.13", on PATH or from pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    if on_path := shutil.which(f"python{version}"):
        candidates.insert(0, Path(on_path))
    for candidate in candidates:
        code = "import sys; print('{}.{}'.format(*sys.version_info))"
        # A command of pyenv is there for versions that are not chosen, and fails.
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return candidate
    return None


def download_pip(folder: Path) -> Path:
    """The wheel of PIP, which Python can run as it is."""
    run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, PIP])
    (wheel,) = folder.glob("pip-*.whl")
    return wheel


def oldest(*extras: str) -> list[str]:
    """Constraints to the lowest versions that the client and these extras allow."""
    project = PYPROJECT["project"]
    requirements = [
        *project["dependencies"],
        *(one for extra in extras for one in project["optional-dependencies"][extra]),
    ]
    constraints = []
    for requirement in map(Requirement, requirements):
        (lowest,) = re.findall(r">=([\d.]+)", str(requirement.specifier))
        constraints.append(f"{requirement.name}=={lowest}")
    return constraints


def run(command: list[str | Path], cwd: Path | None = None) -> str:
    """Output of a command that succeeds, in an environment without this project's settings."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CHANNELTOK_", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout
