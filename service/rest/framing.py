"""Strict HTTP/1.1 framing: refuses what two servers could read differently.

Behind a proxy such a request could hide a second one from it (request smuggling, RFC 9112).
"""

import re
from typing import NoReturn

import h11

_END_OF_HEAD = re.compile(rb"\n\r?\n")  # as h11 finds it
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\n[ \t]")  # a bare line feed, a folded line


class StrictParser(h11.Connection):
    """h11, which refuses two lengths and odd chunks itself, but not all that RFC 9112 lets it.

    refusal: what was wrong with a request, in words for its sender, where h11 would have taken it.
    """

    refusal: str | None = None

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Raises RemoteProtocolError: the answer is 400, and the connection is to be closed."""
        if self.their_state is h11.IDLE:
            data, _ = self.trailing_data
            end = _END_OF_HEAD.search(data)
            if end is not None and _AMBIGUOUS.search(data, 0, end.end()):
                self._refuse("header lines end in CRLF, and none is folded")
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._check(event)
        return event

    def _check(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        if b"transfer-encoding" in names:
            if b"content-length" in names:
                self._refuse("Content-Length and Transfer-Encoding exclude each other")
            if request.http_version == b"1.0":
                self._refuse("HTTP/1.0 has no Transfer-Encoding")

    def _refuse(self, why: str) -> NoReturn:
        self.refusal = why
        raise h11.RemoteProtocolError(why)
