"""Bearer tokens (RFC 6750) of allowed callers, from a file that is reloaded when it changes."""

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
    """The tokens of a file: one on each line, at least 16 characters of A-Z a-z 0-9 . _ ~ + / -

    Empty lines and lines that begin with # are skipped. The file is checked at every call: while it
    is missing or empty, every caller is refused. Tokens are kept as digests and never logged.
    """

    def __init__(self, file: Path) -> None:
        """Raises CannotStart when the file cannot be read, or has no token or an invalid line."""
        self._file = file
        self._stamp: _Stamp | None = None
        self._digests: list[bytes] = []
        try:
            invalid_lines = self._read()
        except OSError as error:
            raise CannotStart(
                f"cannot read {file} ({error.strerror}): see CHANNELTOK_BEARER_TOKEN_FILE"
            ) from error
        if invalid_lines:
            raise CannotStart(
                f"{file}, line {invalid_lines[0]}: a bearer token has {MIN_LENGTH} or more "
                "of A-Z a-z 0-9 . _ ~ + / -"
            )
        if not self._digests:
            raise CannotStart(
                f"{file} has no bearer token: write one on each line, "
                "or unset CHANNELTOK_BEARER_TOKEN_FILE"
            )

    def authenticate(self, authorization: Sequence[str]) -> str:
        """The caller's name, made from the digest of its token.

        authorization: the values of that header. Raises Unauthenticated.
        """
        self._refresh()
        scheme, _, token = (
            authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
        )
        if scheme.lower() != "bearer":
            raise Unauthenticated("send the header `Authorization: Bearer TOKEN`")
        received = _digest(token.strip())
        known = False
        for digest in self._digests:  # all of them: the time must not depend on which one matches
            known |= hmac.compare_digest(digest, received)
        if not known:
            raise Unauthenticated("the bearer token is unknown")
        return f"token {received.hex()[:16]}"

    def _refresh(self) -> None:
        try:
            if _stamp(self._file) == self._stamp:
                return
            invalid_lines = self._read()
            log.info("bearer_tokens_read", tokens=len(self._digests))
            if invalid_lines:
                log.error("bearer_tokens_skipped", lines=invalid_lines, why="not a valid token")
        except OSError as error:
            if self._stamp is not None:
                log.error(
                    "bearer_tokens_lost", why=error.strerror, consequence="every caller is refused"
                )
            self._stamp, self._digests = None, []

    def _read(self) -> list[int]:
        """Load the file. Returns the numbers of the invalid lines."""
        stamp = _stamp(self._file)  # before the content, so that a later change is always noticed
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
