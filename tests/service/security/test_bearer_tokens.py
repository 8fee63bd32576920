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


def test_bearer_tokens_name_each_token_apart(file: Path) -> None:
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
def test_bearer_tokens_refuse_every_other_header(file: Path, authorization: list[str]) -> None:
    assert refused(BearerTokens(file), *authorization)


def test_bearer_tokens_follow_a_changed_file_from_the_next_call(file: Path) -> None:
    tokens = BearerTokens(file)
    # Of the same size, so a change is not noticed by size.
    for new, old in ((BOB, ALICE), (ALICE, BOB)):
        (beside := file.with_suffix(".new")).write_text(new.ljust(40, "=") + "\n")
        os.replace(beside, file)
        assert tokens.authenticate([f"Bearer {new.ljust(40, '=')}"])
        assert refused(tokens, f"Bearer {old}")


@pytest.mark.parametrize(
    "content", ["", "\n\n", "# nobody\n", None], ids=["empty", "blank", "comments", "vanished"]
)
def test_bearer_tokens_refuse_every_caller_while_the_file_has_none(
    file: Path, content: str | None
) -> None:
    tokens = BearerTokens(file)
    file.unlink() if content is None else file.write_text(content)
    assert refused(tokens, f"Bearer {ALICE}")
    assert refused(tokens)
    assert refused(tokens, "Bearer ")
    file.write_text(ALICE)
    assert tokens.authenticate([f"Bearer {ALICE}"])


def test_bearer_tokens_log_only_the_number_of_an_invalid_line(file: Path) -> None:
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
        "why": "not a valid token",
    } in log
    assert not any(secret in str(log) for secret in (ALICE, BOB, "short", "though"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_bearer_tokens_read_files_of_every_system(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "tokens"
    for number in range(2):  # at the start, and when it has changed
        text = f"# of Jörg\r\n{ALICE}  # hers\r\n\r\n{BOB}\t\r\n" + "\r\n" * number
        file.write_bytes(text.encode(encoding))
        tokens = tokens if number else BearerTokens(file)  # noqa: F821
        for token in (ALICE, BOB):
            assert tokens.authenticate([f"Bearer {token}"])
        assert refused(tokens, "Bearer # hers")


def test_bearer_tokens_refuse_every_caller_while_the_file_is_no_text(file: Path) -> None:
    tokens = BearerTokens(file)
    file.write_bytes(f"{ALICE}\n".encode("utf-16-le"))  # without a mark: nothing says what it is
    with capture_logs() as log:
        assert refused(tokens, f"Bearer {ALICE}")
        assert refused(tokens, f"Bearer {ALICE}")
    assert [(line["event"], line["why"]) for line in log] == [
        ("bearer_tokens_lost", "it is not a text file")
    ]
    file.write_text(ALICE)
    assert tokens.authenticate([f"Bearer {ALICE}"])


def test_bearer_tokens_log_once_that_the_file_cannot_be_read(file: Path) -> None:
    tokens = BearerTokens(file)
    file.unlink()
    file.mkdir()  # its status can be read, its content cannot
    with capture_logs() as log:
        assert refused(tokens, f"Bearer {ALICE}")
        assert refused(tokens, f"Bearer {ALICE}")
    assert [line["event"] for line in log] == ["bearer_tokens_lost"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "has no bearer token"),
        (f"{ALICE}\0", "not a text file"),
        ("# x\n", "has no bearer token"),
        (f"{ALICE}\nshort\n", "line 2"),
        (None, "No such file"),
    ],
)
def test_bearer_tokens_refuse_to_start_with_an_unusable_file(
    tmp_path: Path, content: str | None, why: str
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CannotStart, match=why) as caught:
        BearerTokens(file)
    assert ALICE not in str(caught.value)


@pytest.mark.parametrize("loss", ["removed", "emptied", "vanished", "no text"])
async def test_bearer_tokens_revoke_after_two_checks_that_miss_the_token(
    file: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = BearerTokens(file)
    name, checks = tokens.authenticate([f"Bearer {ALICE}"]), 0

    def lose() -> None:
        file.unlink()
        if loss != "vanished":
            content = {"removed": f"{BOB}\n", "emptied": "", "no text": f"{ALICE}\0"}[loss]
            file.write_text(content)

    def keep() -> None:
        file.write_text(f"{BOB}\n\n{ALICE}\n")

    steps = iter([keep, lose, keep, lambda: None, lose, lambda: None])

    async def sleep(seconds: float) -> None:
        nonlocal checks
        checks += 1
        next(steps)()

    monkeypatch.setattr("service.security.bearer_tokens.asyncio.sleep", sleep)
    await tokens.revoked(name)
    assert checks == 6
