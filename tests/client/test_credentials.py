"""Credentials that the client refuses by itself; tests/system/test_security.py tests the rest."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from channeltok import cli


@pytest.mark.parametrize("token", ["", "  ", "\n", "two\nlines", "naïve"])
def test_client_refuses_a_bad_bearer_token_without_showing_it(
    connect: Callable[..., Any], token: str
) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        connect(bearer_token=token)
    assert not token.strip() or token not in str(caught.value)


def test_cli_requires_key_with_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--certificate", "mine.pem"]) == 2
    assert "--certificate and --key go together" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--ca", "--bearer-token-file"])
def test_cli_names_a_missing_file(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = os.fspath(tmp_path / "missing")
    assert cli.main(["info", flag, missing]) == 1
    assert f"{missing}: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has 0 bearer tokens"),
        (b"# none\n", "has 0 bearer tokens"),
        (b"secret-0123456789abcdef\nanother-0123456789abcdef\n", "has 2 bearer tokens"),
        (b"secret\0", "not a text file"),
        ("sécret-0123456789abcdef".encode(), "printable ASCII"),
    ],
)
def test_cli_says_what_is_wrong_with_a_token_file_without_showing_it(
    content: bytes, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "token").write_bytes(content)
    assert cli.main(["info", "--bearer-token-file", str(file)]) == 1
    error = capsys.readouterr().err
    assert why in error
    assert "cret" not in error
