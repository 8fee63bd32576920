"""`channeltok serve` and `--in-process`: what they become, and why they may not."""

import os
import sys
from typing import Any

import pytest
from channeltok import cli
from channeltok.cli import serving


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that replaced this process. It stays, and ends as after Ctrl-C."""
    commands: list[list[str]] = []

    def execv(path: str, command: list[str]) -> None:
        commands.append(command[1:])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(serving, "PYTHONS", (sys.version_info[:2],))
    monkeypatch.setattr(serving, "find_spec", {"service": 1, "pydantic_settings": 1}.get)
    # The command sets them: monkeypatch puts back what was there.
    for name in (
        "PYTHONSAFEPATH",
        "GRPC_ENABLE_FORK_SUPPORT",
        "GRPC_VERBOSITY",
        "GRPC_EXPERIMENTS",
    ):
        monkeypatch.setenv(name, "")
    return commands


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["serve"], ["-m", "service"]),
        (["serve", "--help"], ["-m", "service", "--help"]),
        (["serve", "--grpc-port=0", "--page", "false"], None),
        (
            ["tokenize", "a", "b", "--in-process", "-k", "8"],
            ["-m", "service.in_process", "tokenize", "a", "b", "-k", "8"],
        ),
        (["verify", "--in-process", "--help"], ["-m", "service.in_process", "verify", "--help"]),
    ],
)
def test_command_becomes_the_programs_of_the_service(
    become: list[list[str]], words: list[str], command: list[str] | None
) -> None:
    assert cli.main(words) == 130
    assert become == [command or ["-m", "service", *words[1:]]]
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_installed_packages_come_before_those_of_a_checkout(
    become: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: name)
    assert cli.main(["serve"]) == 130
    assert become == [["-m", "channeltok.service"]]


@pytest.mark.parametrize("words", [["serve"], ["tokenize", "a", "b", "--in-process"]])
def test_missing_packages_are_named(
    become: list[Any],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    assert cli.main(words) == 1
    assert "pip install 'channeltok[serve]'" in capsys.readouterr().err
    assert not become


def test_python_that_the_service_does_not_support_is_named(
    become: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "PYTHONS", ((3, 8), (3, 9)))
    assert cli.main(["serve"]) == 1
    running = ".".join(map(str, sys.version_info[:2]))
    assert f"serve needs Python 3.8 or 3.9, this is {running}" in capsys.readouterr().err
    assert not become
