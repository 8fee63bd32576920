"""Bearer tokens (RFC 6750) of those who may call, from a file that is read again when it changes."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path

import structlog

from service.errors import CannotStart, Unauthenticated

log = structlog.get_logger()
MIN_LENGTH = 16
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/-]{{{MIN_LENGTH},}}=*", re.ASCII)
_Stamp = tuple[int, int, int, int]


class BearerTokens:
    """One token a line; empty lines and lines that begin with # are skipped. At least 16 characters of A-Z a-z 0-9 . _ ~ + / -

    What the file says now is what holds: without it, or when it is empty, nobody is let in. Tokens are kept as digests, never logged.
    """

    def __init__(self, file: Path) -> None:
        """Raises CannotStart when the file cannot be read, holds no token or a line that is none."""
        self._file = file
        self._stamp: _Stamp | None = None
        self._digests: list[bytes] = []
        try:
            wrong_lines = self._read()
        except OSError as error:
            raise CannotStart(
                f"cannot read {file} ({error.strerror}): see CHANNELTOK_BEARER_TOKEN_FILE"
            ) from error
        if wrong_lines:
            raise CannotStart(
                f"{file}, line {wrong_lines[0]}: a bearer token has {MIN_LENGTH} or more of A-Z a-z 0-9 . _ ~ + / -"
            )
        if not self._digests:
            raise CannotStart(
                f"{file} holds no bearer token: write one a line, or unset CHANNELTOK_BEARER_TOKEN_FILE"
            )

    def authenticate(self, authorization: Sequence[str]) -> str:
        """Who calls: a name made from the token's digest. authorization: the values of the header. Raises Unauthenticated."""
        self._refresh()
        scheme, _, token = (
            authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
        )
        if scheme.lower() != "bearer":
            raise Unauthenticated("send the header `Authorization: Bearer TOKEN`")
        given = _digest(token.strip())
        known = False
        for digest in self._digests:  # all of them, so that the time tells nothing
            known |= hmac.compare_digest(digest, given)
        if not known:
            raise Unauthenticated("the bearer token is not known here")
        return f"token {given.hex()[:16]}"

    def _refresh(self) -> None:
        try:
            if _stamp(self._file) == self._stamp:
                return
            wrong_lines = self._read()
            log.info("bearer_tokens_read", tokens=len(self._digests))
            if wrong_lines:
                log.error(
                    "bearer_tokens_skipped", lines=wrong_lines, why="not of the form of a token"
                )
        except OSError as error:
            if self._stamp is not None:
                log.error("bearer_tokens_lost", why=error.strerror, consequence="nobody is let in")
            self._stamp, self._digests = None, []

    def _read(self) -> list[int]:
        """Take what the file holds; the numbers of the lines that are no tokens."""
        stamp = _stamp(
            self._file
        )  # before the content: a change in between is then seen the next time
        lines = [line.strip() for line in self._file.read_text(errors="replace").splitlines()]
        numbered = [
            (number, line)
            for number, line in enumerate(lines, 1)
            if line and not line.startswith("#")
        ]
        self._digests = [_digest(line) for _, line in numbered if _TOKEN.fullmatch(line)]
        self._stamp = stamp
        return [number for number, line in numbered if not _TOKEN.fullmatch(line)]


def _stamp(file: Path) -> _Stamp:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
