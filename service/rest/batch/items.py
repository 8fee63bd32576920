"""Items of batches that are lines of JSON: their ids, images and tokens."""

import binascii
from typing import Any

import numpy as np
from channeltok.fit import Aspect
from channeltok.tokens import Tokens

from service.errors import BadRequest
from service.rest.batch.bodies import MAX_ID
from service.rest.json_images import decode_base64
from service.rest.requests import parse_object, read_tokens, read_view

# Base64 has no commas, and megabytes of them would take long to parse.
_MAX_COMMAS = 256


def id_of(document: dict[str, Any]) -> dict[str, Any]:
    """The field `id`, where the document has one. Raises BadRequest."""
    name = document.get("id")
    if name is None:
        return {}
    whole = type(name) is int and abs(name) < 2**53
    if not whole and not (isinstance(name, str) and len(name) <= MAX_ID):
        raise BadRequest(f"id must be a string of at most {MAX_ID} characters, or a whole number")
    return {"id": name}


async def image_of_line(line: bytes, reply: dict[str, Any]) -> bytes:
    """The image in an ImageItemDocument, whose id is added to `reply`. Raises BadRequest."""
    if np.count_nonzero(np.frombuffer(line, np.uint8) == ord(",")) > _MAX_COMMAS:
        raise BadRequest(f"a line may have at most {_MAX_COMMAS} commas")
    document = parse_object(line, "the line")
    reply |= id_of(document)
    text = document.get("image")
    if not isinstance(text, str):
        raise BadRequest('a line must be {"image": "base64 of a JPEG, PNG or WebP file"}')
    return await decode_base64(text, len(text))


def tokens_of(document: dict[str, Any]) -> tuple[Tokens | bytes, str | None, Aspect | None]:
    """Tokens or token bytes, tokenizer and aspect of a TokensItemDocument.

    Raises BadRequest, BadTokens.
    """
    if not isinstance(document.get("tokens"), str):
        return (*read_tokens(document, "a line"), None)
    tokenizer = document.get("tokenizer")
    if tokenizer is not None and not isinstance(tokenizer, str):
        raise BadRequest("tokenizer must be a name")
    view = read_view(document)
    tokens = _from_base64(document["tokens"], "tokens")
    return tokens, tokenizer, None if view is None else view.aspect


def _from_base64(text: str, field: str) -> bytes:
    """Raises BadRequest."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise BadRequest(f"{field} is not base64: {error}") from error
