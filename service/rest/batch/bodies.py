"""Bodies of many items, read piece by piece: lines of JSON, or the parts of a multipart body.

An item that is too large is skipped and reported; no more than one item is held at a time.
"""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from time import monotonic

from fastapi import Request

from service.core.memory import COPIES, MemoryBudget, Reservation
from service.errors import BadRequest, ServiceError, TooLarge, TooSlow

_MAX_PART_HEADERS = 4096  # bytes
MAX_ID = 200  # characters
# RFC 2046 allows spaces too, but not at the end.
_BOUNDARY = re.compile(
    r';\s*boundary=("?)([0-9A-Za-z\'()+_,./:=?-]{1,70})\1\s*(;|$)', re.IGNORECASE
)
_CONTENT_TYPE = re.compile(r"^content-type:[ \t]*(.*?)[ \t]*$", re.IGNORECASE | re.MULTILINE)
_FILE_NAME = re.compile(r';\s*filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


@dataclass
class Item:
    """One item of a batch, as it arrived.

    name: of its file; None where it has none. data: its bytes; the error, where there are too many.
    memory: of the data, then of the reply; released by the caller. content_type: of the part; empty
    where it has none.
    """

    name: str | None
    data: bytes | ServiceError
    memory: Reservation
    content_type: str = ""

    def take(self) -> bytes:
        """The data, which the item then no longer holds. Raises the error."""
        data, self.data = self.data, b""
        if isinstance(data, ServiceError):
            raise data
        return data


class _End(Exception):
    """The body ends before the delimiter. rest: what there is of it."""

    def __init__(self, rest: bytes) -> None:
        super().__init__()
        self.rest = rest


class _Reader:
    """The body up to one delimiter after another. Each stretch gets `seconds` to arrive."""

    def __init__(
        self, request: Request, memory: MemoryBudget, seconds: float, start: bytes = b""
    ) -> None:
        """start: to be read before the body."""
        self._chunks = request.stream()
        self._memory = memory
        self._seconds = seconds
        self._buffer = bytearray(start)

    async def until(self, delimiter: bytes, limit: int, reservation: Reservation) -> bytes:
        """What comes before the next `delimiter`; both are taken out of the body.

        Raises TooLarge, with both taken out, where that is more than `limit` bytes; _End; TooSlow;
        Overloaded.
        """
        left, searched, skipped = self._seconds, 0, False
        while (end := self._buffer.find(delimiter, searched)) < 0:
            searched = max(0, len(self._buffer) - len(delimiter) + 1)
            if searched > limit:
                skipped = True
                del self._buffer[:searched]
                searched = 0
            room = COPIES * len(self._buffer)
            if room > reservation.size:
                # Twice as much each time: few steps, and nothing for bytes that never come.
                most = COPIES * (limit + len(delimiter) + 2**16)
                await reservation.grow(min(most, 2 * room))
            waited = monotonic()
            chunk = await self._chunk(left, reservation)
            left -= monotonic() - waited
            if not chunk:
                rest, self._buffer = bytes(self._buffer), bytearray()
                if skipped or len(rest) > limit:
                    raise _too_large(limit)
                raise _End(rest)
            self._buffer += chunk
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(delimiter)]
        if skipped or len(found) > limit:
            raise _too_large(limit)
        await reservation.grow(COPIES * len(found))  # it may have come with what was before it
        reservation.shrink(COPIES * len(found))
        return found

    async def _chunk(self, seconds: float, reservation: Reservation) -> bytes:
        """The next bytes of the body; none at its end."""
        try:
            async with self._memory.transfer(max(0.0, seconds), reservation):
                async for chunk in self._chunks:
                    if chunk:
                        return chunk
        except TimeoutError as error:
            raise TooSlow(f"an item did not arrive within {self._seconds:g} s") from error
        return b""


async def read_lines(
    request: Request, memory: MemoryBudget, seconds: float, limit: int
) -> AsyncGenerator[Item, None]:
    """The lines of a body; empty ones do not count. seconds, limit: of each, its bytes.

    Raises TooSlow, Overloaded.
    """
    reader = _Reader(request, memory, seconds)
    last = False
    while not last:
        data: bytes | ServiceError
        reservation = await memory.reserve(0)
        try:
            data = await reader.until(b"\n", limit, reservation)
        except _End as end:
            data, last = end.rest, True
        except TooLarge:
            data = _too_large(limit)  # without the traceback, which would hold what was read
        except BaseException:
            reservation.release()
            raise
        if isinstance(data, bytes) and not data.strip():
            reservation.release()
        else:
            yield Item(None, data, reservation)


async def read_parts(
    request: Request, memory: MemoryBudget, seconds: float, limit: int
) -> AsyncGenerator[Item, None]:
    """The parts of a multipart body, named by their file names. seconds, limit: as for lines.

    Raises BadRequest, TooSlow, Overloaded.
    """
    delimiter = b"\r\n--" + _boundary(request)
    reader = _Reader(request, memory, seconds, start=b"\r\n")
    with await memory.reserve(0) as start:
        await _stretch(reader, delimiter, start)  # the preamble, which means nothing
    while True:
        reservation = await memory.reserve(0)
        try:
            # What follows a delimiter: the headers of a part, from the CRLF before them; or `--`.
            headers = await _stretch(reader, b"\r\n\r\n", reservation, at_end=b"--")
            if headers.startswith(b"--"):
                reservation.release()
                return
            if headers.strip() and not headers.lstrip(b" \t").startswith(b"\r\n"):
                raise BadRequest("a boundary is not at the end of its line")
            data: bytes | ServiceError
            try:
                data = await reader.until(delimiter, limit, reservation)
            except TooLarge:
                data = _too_large(limit)
            except _End:
                raise BadRequest("the body ends before its last boundary") from None
        except BaseException:
            reservation.release()
            raise
        yield Item(_file_name(headers), data, reservation, _content_type(headers))


async def _stretch(
    reader: _Reader, delimiter: bytes, reservation: Reservation, at_end: bytes | None = None
) -> bytes:
    """Up to a delimiter, or to the end of the body if that starts with `at_end`."""
    try:
        return await reader.until(delimiter, _MAX_PART_HEADERS, reservation)
    except TooLarge:
        raise BadRequest(
            f"there are more than {_MAX_PART_HEADERS:,} bytes before a part or in its headers"
        ) from None
    except _End as end:
        if at_end is not None and end.rest.startswith(at_end):
            return end.rest
        raise BadRequest("the body ends before its last boundary") from None


def _boundary(request: Request) -> bytes:
    """Raises BadRequest."""
    match = _BOUNDARY.search(request.headers["content-type"])
    if match is None:
        raise BadRequest("Content-Type: multipart needs a boundary of 1 to 70 characters")
    return match[2].encode()


def _file_name(headers: bytes) -> str | None:
    match = _FILE_NAME.search(headers.decode("utf-8", "replace"))
    return match[1][:MAX_ID] if match else None


def _content_type(headers: bytes) -> str:
    match = _CONTENT_TYPE.search(headers.decode("latin-1").replace("\r", ""))
    return match[1] if match else ""


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the item has more than {limit:,} bytes, the limit")
