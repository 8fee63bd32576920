"""The messages that a gRPC call sends: each is read when there is memory for it, then parsed.

gRPC says how large a message is only once it has read all of it, so the largest one is reserved
first. How long a message may take is limited here too, because gRPC does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError

from service.core.memory import (
    MAX_DOCUMENT_BYTES,
    PATIENCE_SECONDS,
    MemoryBudget,
    Reservation,
    most_bytes,
)
from service.errors import BadRequest, TooLarge, TooSlow

_MAX_FIELDS = 32  # fields of a large message that are looked at


@dataclass(frozen=True)
class MessageLimits:
    """receive_seconds: time that the message of a call with a single one may take to arrive.

    send_seconds: time that the last reply, or the status, of a call may take to be read.
    max_bytes: of a message that holds an image. Others: MAX_DOCUMENT_BYTES.
    images: path of an RPC -> where its image may be: field numbers that lead there, from the
    outermost.
    """

    receive_seconds: float
    send_seconds: float
    max_bytes: int
    images: dict[str, tuple[tuple[int, ...], ...]]


class Requests:
    """The messages of one call, as an iterator. Closing it (`with`) releases their memory."""

    waiting = False  # never with a part of its memory

    def __init__(
        self,
        context: grpc.aio.ServicerContext,
        path: str,
        parse: Callable[[bytes], Any],
        limits: MessageLimits,
        memory: MemoryBudget,
    ) -> None:
        self._context = context
        self._images = limits.images.get(path, ())
        self._parse = parse
        self._limits = limits
        self._memory = memory
        self._latest: Reservation | None = None
        self._taken: list[Reservation] = []

    async def single(self) -> Any:
        """The message of a call with a single one. Raises TooSlow, Overloaded, BadRequest."""
        seconds = self._limits.receive_seconds
        try:
            message = await self._read(seconds, PATIENCE_SECONDS)
        except TimeoutError:
            raise TooSlow(f"the message did not arrive within {seconds:g} s") from None
        if message is grpc.aio.EOF:
            raise BadRequest("the call ended before its message")
        return self._checked(message)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._latest is not None:
            self._latest.release()
        message = await self._read(None, None)
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._checked(message)

    def take(self) -> Reservation:
        """The memory of the latest message, for the caller to release.

        Otherwise it is released when the next message is asked for.
        """
        assert self._latest is not None
        taken, self._latest = self._latest, None
        self._taken = [reservation for reservation in self._taken if reservation.size]
        self._taken.append(taken)
        return taken

    @property
    def size(self) -> int:
        """Bytes reserved for messages now."""
        latest = 0 if self._latest is None else self._latest.size
        return latest + sum(reservation.size for reservation in self._taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._latest is not None:
            self._latest.release()
        for reservation in self._taken:
            reservation.release()

    async def _read(self, seconds: float | None, patience: float | None) -> Any:
        most = most_bytes(self._limits.max_bytes)
        self._latest = await self._memory.reserve(most, patience=patience)
        async with self._memory.transfer(seconds, self):
            message = await self._context.read()
        self._latest.shrink(0 if message is grpc.aio.EOF else most_bytes(len(message)))
        return message

    def _checked(self, message: bytes) -> Any:
        """The message, parsed. Raises TooLarge, BadRequest."""
        if len(message) > MAX_DOCUMENT_BYTES:
            # Parsing megabytes of tiny fields would hold up every other call.
            beside = len(message) - sum(_length(message, path) for path in self._images)
            if beside > MAX_DOCUMENT_BYTES:
                raise TooLarge(
                    f"the message has {beside:,} bytes{' beside its image' * bool(self._images)}; "
                    f"at most {MAX_DOCUMENT_BYTES:,} are allowed"
                )
        try:
            return self._parse(message)
        except DecodeError:
            raise _malformed() from None


def _length(message: bytes, path: tuple[int, ...]) -> int:
    """Bytes in the field that `path` leads to; 0 where there is none. Raises BadRequest."""
    start, end = 0, len(message)
    try:
        for field in path:
            start, end = _find(message, start, end, field)
    except IndexError:
        raise _malformed() from None
    return end - start


def _find(message: bytes, start: int, end: int, wanted: int) -> tuple[int, int]:
    """Start and end of the last field `wanted`, of wire type bytes, between `start` and `end`."""
    found = (end, end)
    for _ in range(_MAX_FIELDS):
        if start >= end:
            return found
        tag, start = _varint(message, start)
        match tag & 7:  # the wire type
            case 0:
                _, start = _varint(message, start)
            case 1:
                start += 8
            case 5:
                start += 4
            case 2:
                length, start = _varint(message, start)
                if tag >> 3 == wanted:
                    found = (start, min(start + length, end))
                start += length
            case _:
                raise _malformed()
    raise TooLarge(f"a message of this size may have at most {_MAX_FIELDS} fields")


def _varint(message: bytes, start: int) -> tuple[int, int]:
    """Value, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise _malformed()


def _malformed() -> BadRequest:
    return BadRequest("the message is not of the type that this method takes")
