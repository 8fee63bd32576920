"""What the client refuses by itself; that TLS and tokens work is shown in tests/system/test_security.py."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from channeltok import cli


@pytest.mark.parametrize("token", ["", "  ", "two\nlines", "naïve"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(
    connect: Callable[..., Any], token: str
) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        connect(bearer_token=token)
    assert not token.strip() or token not in str(caught.value)


def test_a_certificate_needs_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--certificate", "mine.pem"]) == 2
    assert "--certificate and --key go together" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--ca", "--bearer-token-file"])
def test_a_file_that_is_not_there_is_named(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = os.fspath(tmp_path / "missing")
    assert cli.main(["info", flag, missing]) == 1
    assert f"{missing}: No such file" in capsys.readouterr().err
