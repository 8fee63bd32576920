import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.errors import CannotStart, Unauthenticated
from service.security.bearer_tokens import BearerTokens

ALICE, BOB = "alice-0123456789abcdef", "bob/0123456789+ABCDEF=="


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# those of production\n\n  {ALICE}  \n{BOB}\n")
    return file


def refused(tokens: BearerTokens, *authorization: str) -> bool:
    try:
        tokens.authenticate(authorization)
    except Unauthenticated as error:
        assert not any(
            word in error.detail
            for given in authorization
            for word in given.split()
            if len(word) > 6
        )
        return True
    return False


def test_those_in_the_file_are_known_apart(file: Path) -> None:
    tokens = BearerTokens(file)
    names = [
        tokens.authenticate([f"Bearer {ALICE}"]),
        tokens.authenticate([f"bearer {ALICE}"]),
        tokens.authenticate([f"BEARER  {BOB} "]),
    ]
    assert names[0] == names[1] != names[2]
    assert not any(secret in name for name in names for secret in (ALICE, BOB))


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        [ALICE],
        [f"Basic {ALICE}"],
        [f"Bearer {ALICE}x"],
        [f"Bearer {ALICE[:-1]}"],
        [f"Bearer {ALICE.upper()}"],
        ["Bearer # those of production"],
        ["Bearer \xff\u2603"],
        [f"Bearer {ALICE}", f"Bearer {ALICE}"],
        [f"Bearer {ALICE} {BOB}"],
    ],
)
def test_everything_else_is_refused(file: Path, authorization: list[str]) -> None:
    assert refused(BearerTokens(file), *authorization)


def test_a_change_holds_from_the_next_call(file: Path) -> None:
    tokens = BearerTokens(file)
    for new, old in (
        (BOB, ALICE),
        (ALICE, BOB),
    ):  # of the same size, so it is not by size that a change is seen
        (beside := file.with_suffix(".new")).write_text(new.ljust(40, "=") + "\n")
        os.replace(beside, file)
        assert tokens.authenticate([f"Bearer {new.ljust(40, '=')}"])
        assert refused(tokens, f"Bearer {old}")


@pytest.mark.parametrize(
    "content", ["", "\n\n", "# nobody\n", None], ids=["empty", "blank", "comments", "vanished"]
)
def test_without_tokens_nobody_is_let_in_until_they_are_back(
    file: Path, content: str | None
) -> None:
    tokens = BearerTokens(file)
    file.unlink() if content is None else file.write_text(content)
    assert refused(tokens, f"Bearer {ALICE}")
    assert refused(tokens)
    assert refused(tokens, "Bearer ")
    file.write_text(ALICE)
    assert tokens.authenticate([f"Bearer {ALICE}"])


def test_a_line_that_is_no_token_is_logged_by_its_number_alone(file: Path) -> None:
    tokens = BearerTokens(file)
    file.write_text(f"short\n{ALICE}\nwith blanks in it, though long enough\n")
    with capture_logs() as log:
        assert tokens.authenticate([f"Bearer {ALICE}"])
        assert refused(tokens, "Bearer short")
        assert refused(tokens, f"Bearer {BOB}")
    assert {
        "event": "bearer_tokens_skipped",
        "log_level": "error",
        "lines": [1, 3],
        "why": "not of the form of a token",
    } in log
    assert not any(secret in str(log) for secret in (ALICE, BOB, "short", "though"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "holds no bearer token"),
        ("# x\n", "holds no bearer token"),
        (f"{ALICE}\nshort\n", "line 2"),
        (None, "No such file"),
    ],
)
def test_a_service_does_not_start_on_a_file_that_is_no_good(
    tmp_path: Path, content: str | None, why: str
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CannotStart, match=why) as caught:
        BearerTokens(file)
    assert ALICE not in str(caught.value)
