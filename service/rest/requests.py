"""Read REST requests: the body within its limits, query parameters, token documents."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import orjson
from channeltok.fit import check_aspect
from channeltok.quality import Quality
from channeltok.tokens import ImageView, Tokens
from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from service.errors import BadK, BadRequest, BadTokens, TooLarge, TooSlow
from service.rest.documents import ViewDocument
from service.rest.problems import invalid_request
from service.settings import Settings

_Result = TypeVar("_Result")


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body, with never more than `max_message_bytes` of it in memory.

    Raises TooLarge, and TooSlow after `receive_seconds`.
    """
    limit = settings.max_message_bytes
    too_large = TooLarge(f"the body is larger than {limit:,} bytes, the limit")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.receive_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError as error:
        raise TooSlow(f"the body did not arrive within {settings.receive_seconds:g} s") from error
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
    try:
        return int(text)
    except ValueError as error:
        raise BadK(f"k is {text[:40]!r}; it must be a whole number") from error


def parse_quality(text: str | None) -> Quality | None:
    """Raises BadRequest."""
    try:
        return None if text is None else Quality.parse(text)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def parse_tokens(body: bytes) -> tuple[Tokens, str | None]:
    """Tokens and tokenizer name of a JSON body. Raises BadRequest, BadTokens."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    return read_tokens(document, "the body")


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
    if tokenizer is not None and not isinstance(tokenizer, str):
        raise BadRequest("tokenizer must be a name")
    if k != len(ids):
        raise BadTokens(f"k is {str(k)[:20]}, but there are {len(ids)} ids")
    for token in ids:
        if type(token) is not int or not 0 <= token <= 65535:
            raise BadTokens(f"an id is {str(token)[:40]}; ids are whole numbers from 0 to 65535")
    try:
        return Tokens(ids, document["fingerprint"], view=_read_view(document)), tokenizer
    except ValueError as error:
        raise BadTokens(str(error)) from error


def _read_view(document: dict[str, Any]) -> ImageView | None:
    if document.get("view") is None:
        return None
    try:
        fields = ViewDocument.model_validate(document["view"]).model_dump()
    except ValidationError as error:
        raise invalid_request(error) from error
    view = ImageView(**fields)
    check_aspect(view.aspect)
    return view
