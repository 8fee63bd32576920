import json
import subprocess
import sys

CRASH = """
import structlog
from service.observability import logs

def handle(authorization):
    raise RuntimeError(f"{len(authorization)} characters")

logs.configure("info")
try:
    handle("Bearer a-secret" + "-of-the-caller")
except RuntimeError as error:
    structlog.get_logger().exception("internal_error", exc_info=error)
"""


def test_an_exception_is_logged_without_what_callers_sent() -> None:
    """structlog's own setting writes the local variables of every frame."""
    line = subprocess.run(
        [sys.executable, "-c", CRASH], capture_output=True, text=True, check=True
    ).stderr
    assert json.loads(line)["exception"][0]["exc_type"] == "RuntimeError"
    assert "handle" in line
    assert "a-secret-of" not in line
