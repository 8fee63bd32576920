"""Bearer tokens (RFC 6750) of allowed callers, from a file that is reloaded when it changes."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path

import structlog
from channeltok.bearer_token_file import read_bearer_tokens

from service.errors import CannotStart, Unauthenticated
from service.security.secret_files import Stamp, stamp, warn_of_other_users

log = structlog.get_logger()
MIN_LENGTH = 16
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/-]{{{MIN_LENGTH},}}=*", re.ASCII)
CHECK_SECONDS = 1.0  # between two checks of the file while a call lasts


class BearerTokens:
    """The tokens of a file: one on each line, at least 16 characters of A-Z a-z 0-9 . _ ~ + / -

    Empty lines and comments after # are skipped. The file is checked at every call: while it is
    missing, empty or no text, every caller is refused. Tokens are kept as digests and never logged.
    """

    def __init__(self, file: Path) -> None:
        """Raises CannotStart when the file cannot be read, or has no token or an invalid line."""
        self._file = file
        self._stamp: Stamp | None = None
        self._digests: list[bytes] = []
        self._names: set[str] = set()
        try:
            invalid_lines = self._read()
        except OSError as error:
            raise CannotStart(
                f"cannot read {file} ({error.strerror}): see CHANNELTOK_BEARER_TOKEN_FILE"
            ) from error
        except ValueError as error:
            raise CannotStart(f"{file}: {error}, so it has no bearer tokens") from error
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
        return _name(received)

    async def revoked(self, name: str) -> None:
        """Return once the file no longer has the token of that caller.

        Two checks in a row must miss it: a file that is being rewritten is empty for a moment.
        """
        misses = 0
        while misses < 2:
            await asyncio.sleep(CHECK_SECONDS)
            self._refresh()
            misses = 0 if name in self._names else misses + 1

    def _refresh(self) -> None:
        try:
            if stamp(self._file) == self._stamp:
                return
            invalid_lines = self._read()
            log.info("bearer_tokens_read", tokens=len(self._digests))
            if invalid_lines:
                log.error("bearer_tokens_skipped", lines=invalid_lines, why="not a valid token")
        except OSError as error:
            if self._stamp is not None:
                self._lose(str(error.strerror))
            self._stamp = None
        except ValueError as error:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        self._digests, self._names = [], set()
        log.error("bearer_tokens_lost", why=why, consequence="every caller is refused")

    def _read(self) -> list[int]:
        """Load the file. Returns the numbers of the invalid lines. Raises ValueError for no text,
        and OSError."""
        before = stamp(self._file)  # so that a later change is always noticed
        content = self._file.read_bytes()
        self._stamp = before
        warn_of_other_users(self._file)
        lines = read_bearer_tokens(content)
        self._digests = [_digest(line) for _, line in lines if _TOKEN.fullmatch(line)]
        self._names = set(map(_name, self._digests))
        return [number for number, line in lines if not _TOKEN.fullmatch(line)]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _name(digest: bytes) -> str:
    return f"token {digest.hex()[:16]}"
