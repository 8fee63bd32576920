"""Images as base64 in JSON, for callers who only have JSON."""

import asyncio
import binascii
from typing import Any

from pydantic import ValidationError

from service.errors import BadRequest, TooLarge
from service.rest.documents import EncodeDocument
from service.rest.problems import invalid_request

_MAX_MARKS = 64  # of commas and brackets; the fields of EncodeDocument have five
_PIECE = 2**18  # characters of base64 that are decoded while other calls wait, in a millisecond
_PARAMETERS = list(EncodeDocument.model_fields)


def parse_encode(body: bytes) -> EncodeDocument:
    """Raises BadRequest."""
    # Before it is parsed: mebibytes of {},{},{} would take seconds, while all other calls wait.
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_MARKS:
        raise BadRequest(
            f"the body must be a JSON object of these fields: {', '.join(_PARAMETERS)}"
        )
    try:
        return EncodeDocument.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error) from error


def base64_characters(size: int) -> int:
    """Length of the base64 of `size` bytes."""
    return -(-size // 3) * 4


async def decode_base64(text: str, limit: int) -> bytes:
    """The bytes of base64 (RFC 4648, with padding), at most `limit`.

    Raises BadRequest, and TooLarge for more.
    """
    if len(text) // 4 * 3 - 2 > limit:
        raise TooLarge(f"the image is larger than {limit:,} bytes, the limit")
    if text.startswith("data:"):
        raise BadRequest("image is a data URL; send only the base64 after its comma")
    image = bytearray()
    for start in range(0, len(text), _PIECE):
        try:
            image += binascii.a2b_base64(text[start : start + _PIECE], strict_mode=True)
        except ValueError as error:
            raise BadRequest(
                "image is not base64 of RFC 4648: A-Z a-z 0-9 + /, then = to a multiple of four "
                f"characters, without line breaks ({error})"
            ) from error
        if len(image) != (start + _PIECE) // 4 * 3 and start + _PIECE < len(text):
            raise BadRequest("image is not base64 of RFC 4648: it has = before its end")
        await asyncio.sleep(0)
    if len(image) > limit:
        raise TooLarge(f"the image has {len(image):,} bytes; at most {limit:,} are allowed")
    return bytes(image)


def once(query: dict[str, Any], document: EncodeDocument) -> dict[str, Any]:
    """Parameters of encode from the query and the body. Raises BadRequest for one in both."""
    given = document.model_dump(exclude={"image"}, exclude_none=True)
    for name in given:
        if query[name] is not None:
            raise BadRequest(f"{name} is given in the query and in the body; once is allowed")
    return {**query, **given}
