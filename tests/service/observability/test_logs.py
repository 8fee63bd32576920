import json
import subprocess
import sys


def test_logs_omit_the_local_variables_of_an_exception() -> None:
    """structlog's default writes the local variables of every frame."""
    line = subprocess.run(
        [sys.executable, "-m", "tests.support.crashing_program"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert json.loads(line)["exception"][0]["exc_type"] == "RuntimeError"
    assert "handle" in line
    assert "a-secret-of" not in line
