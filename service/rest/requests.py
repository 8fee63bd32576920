"""Read REST requests: the body within its limits, query parameters, token documents."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from channeltok.fit import check_aspect
from channeltok.quality import WHOLE_NUMBER, Quality
from channeltok.tokens import ImageView, Tokens
from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from service.core.memory import (
    COPIES,
    MAX_DOCUMENT_BYTES,
    PATIENCE_SECONDS,
    MemoryBudget,
    Reservation,
)
from service.errors import BadK, BadRequest, BadTokens, TooLarge, TooSlow
from service.rest.batch.bodies import Item, read_lines, read_parts
from service.rest.documents import EncodeDocument, ViewDocument
from service.rest.json_images import base64_characters, decode_base64, parse_encode
from service.rest.problems import invalid_request
from service.settings import Settings

_Result = TypeVar("_Result")


_KINDS = {bool: "boolean", dict: "object", list: "list", str: "string", type(None): "null"}


class Bodies:
    """Reads bodies, each within its limits and the memory budget.

    memory: the budget.
    """

    def __init__(self, settings: Settings, memory: MemoryBudget) -> None:
        self._seconds = settings.receive_seconds
        self._max_bytes = settings.max_message_bytes
        self.memory = memory

    @asynccontextmanager
    async def image(self, request: Request) -> AsyncIterator[bytes]:
        """`async with` a body of at most `max_message_bytes`; its memory is reserved meanwhile.

        Raises TooLarge, TooSlow after `receive_seconds`, and Overloaded.
        """
        with await self.memory.reserve(0) as reservation:
            yield await self._read(request, self._max_bytes, reservation)

    @asynccontextmanager
    async def json_image(self, request: Request) -> AsyncIterator[tuple[bytes, EncodeDocument]]:
        """The same for an EncodeDocument: yields its image, of at most `max_message_bytes`, and the
        document, without it. Raises also BadRequest."""
        limit = base64_characters(self._max_bytes) + MAX_DOCUMENT_BYTES
        with await self.memory.reserve(0) as reservation:
            document = parse_encode(await self._read(request, limit, reservation))
            image = await decode_base64(document.image, self._max_bytes)
            document.image = ""
            reservation.shrink(COPIES * len(image))
            yield image, document

    async def document(self, request: Request) -> bytes:
        """A body of at most MAX_DOCUMENT_BYTES. Raises TooLarge, TooSlow, Overloaded."""
        with await self.memory.reserve(0) as reservation:
            return await self._read(request, MAX_DOCUMENT_BYTES, reservation)

    def lines(self, request: Request, limit: int) -> AsyncGenerator[Item, None]:
        """The lines of a body, each of at most `limit` bytes."""
        return read_lines(request, self.memory, self._seconds, limit)

    def parts(self, request: Request) -> AsyncGenerator[Item, None]:
        """The parts of a multipart body, each of at most `max_message_bytes`."""
        return read_parts(request, self.memory, self._seconds, self._max_bytes)

    async def _read(self, request: Request, limit: int, reservation: Reservation) -> bytes:
        too_large = TooLarge(f"the body is larger than {limit:,} bytes, the limit")
        if int(request.headers.get("content-length", 0)) > limit:
            raise too_large
        body = bytearray()
        try:
            async with self.memory.transfer(self._seconds, reservation):
                async for chunk in request.stream():
                    size = len(body) + len(chunk)
                    if size > limit:
                        raise too_large
                    if COPIES * size > reservation.size:
                        # Twice as much each time: few steps, and nothing for bytes that never come.
                        room = COPIES * min(limit, max(size, 2 * len(body)))
                        await reservation.grow(room, PATIENCE_SECONDS)
                    body += chunk
        except TimeoutError as error:
            raise TooSlow(f"the body did not arrive within {self._seconds:g} s") from error
        reservation.shrink(COPIES * len(body))
        return bytes(body)


async def cancel_on_disconnect(request: Request, work: Awaitable[_Result]) -> _Result:
    """Await `work`; cancel it and raise ClientDisconnect when the client disconnects first.

    The body must have been read: after it, a disconnect is all that can be received.
    """
    result, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({result, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        result.cancel()
        disconnect.cancel()


def parse_k(text: str | None) -> int | None:
    """Raises BadK."""
    if text is None:
        return None
    if not WHOLE_NUMBER.fullmatch(text):
        raise BadK(f"k is {text[:40]!r}; it must be a whole number, written in digits alone")
    return int(text)


def parse_ks(text: str | None) -> list[int]:
    """Whole numbers with commas between them; none where absent. Raises BadK."""
    if text is None:
        return []
    parts = text.split(",")
    for part in parts:
        if not WHOLE_NUMBER.fullmatch(part):
            raise BadK(
                f"k is {text[:40]!r}; it must be a whole number, or several with commas between "
                "them, written in digits alone"
            )
    return [int(part) for part in parts]


def parse_quality(text: str | None) -> Quality | None:
    """Raises BadRequest."""
    try:
        return None if text is None else Quality.parse(text)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def parse_tokens(body: bytes) -> tuple[Tokens, str | None]:
    """Tokens and tokenizer name of a JSON body. Raises BadRequest, BadTokens."""
    return read_tokens(parse_object(body), "the body")


def parse_object(body: bytes, where: str = "the body") -> dict[str, Any]:
    """A JSON object. where: what to call it in messages. Raises BadRequest."""
    try:
        document = from_json(body)
    except ValueError as error:
        raise BadRequest(f"{where} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadRequest(f"{where} must be a JSON object")
    return document


def read_tokens(document: Any, where: str) -> tuple[Tokens, str | None]:
    """Tokens and tokenizer name (None where absent) of a TokensDocument.

    where: what to call the document in messages. Raises BadRequest or InvalidInput when it is
    malformed, BadTokens when its ids are wrong.
    """
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("tokens"), list)
        or not isinstance(document.get("fingerprint"), str)
    ):
        raise BadRequest(
            f'{where} must be {{"fingerprint": "16 hex digits", "tokens": [ids]}}, '
            "as encode returns it"
        )
    ids, tokenizer = document["tokens"], document.get("tokenizer")
    k = document.get("k", len(ids))
    if type(k) is not int:
        raise BadTokens("k must be a whole number")
    if tokenizer is not None and not isinstance(tokenizer, str):
        raise BadRequest("tokenizer must be a name")
    if k != len(ids):
        raise BadTokens(f"k is {str(k)[:20]}, but there are {len(ids)} ids")
    for token in ids:
        if type(token) is not int:
            # Not the item itself: it may be a list of thousands.
            found = token if isinstance(token, float) else f"a {_KINDS[type(token)]}"
            raise BadTokens(f"an id is {found}; ids are whole numbers from 0 to 65535")
        if not 0 <= token <= 65535:
            raise BadTokens(f"an id is {token}; ids are whole numbers from 0 to 65535")
    try:
        return Tokens(ids, document["fingerprint"], view=read_view(document)), tokenizer
    except ValueError as error:
        raise BadTokens(str(error)) from error


def read_view(document: dict[str, Any]) -> ImageView | None:
    """The `view` of a TokensDocument, where it has one. Raises InvalidInput, BadRequest."""
    if document.get("view") is None:
        return None
    try:
        fields = ViewDocument.model_validate(document["view"]).model_dump()
    except ValidationError as error:
        raise invalid_request(error) from error
    view = ImageView(**fields)
    check_aspect(view.aspect)
    return view
