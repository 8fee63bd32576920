import json

import pytest
import structlog

from service.__main__ import _configure_logs


def test_an_exception_is_logged_without_what_callers_sent(capsys: pytest.CaptureFixture[str]) -> None:
    """structlog's own setting writes the local variables of every frame."""

    def handle(authorization: str) -> None:
        raise RuntimeError(f"{len(authorization)} characters")

    _configure_logs("info")
    try:
        handle("Bearer a-secret-of-the-caller")
    except RuntimeError as error:
        structlog.get_logger().exception("internal_error", exc_info=error)
    finally:
        structlog.reset_defaults()
    line = capsys.readouterr().err
    assert json.loads(line)["exception"][0]["exc_type"] == "RuntimeError"
    assert "handle" in line
    assert "a-secret" not in line
