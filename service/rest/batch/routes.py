"""REST routes of batches: many images, or many token sequences, in one call."""

import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

import orjson
from channeltok.fit import FITS, check_fit, parse_aspect
from fastapi import FastAPI, Query, Request, Response

from imaging import FORMATS
from service.core.admission import Priority
from service.core.memory import COPIES, MAX_DOCUMENT_BYTES
from service.core.rate_limit import caller
from service.core.tokenization import Tokenization
from service.errors import BadK, to_service_error
from service.rest.batch.bodies import Item
from service.rest.batch.documents import (
    DecodedItemDocument,
    EncodedItemDocument,
    ImageItemDocument,
    ItemProblemDocument,
    TokensItemDocument,
)
from service.rest.batch.items import id_of, image_of_line, tokens_of
from service.rest.batch.replies import Batch, Work
from service.rest.negotiation import (
    FORMATS_BY_NAME,
    JSON_LINES,
    MULTIPART_FORM,
    NDJSON,
    accept_of,
    image_in,
    image_types,
    negotiate,
    require_content_type,
)
from service.rest.openapi import (
    ASPECT,
    INTEGER,
    STRING,
    WORK,
    lines,
    one_of,
    operation,
)
from service.rest.parameters import DecodeTokenizer, EncodeTokenizer
from service.rest.problems import to_problem
from service.rest.requests import (
    Bodies,
    parse_k,
    parse_object,
    parse_quality,
)
from service.rest.results import tokens_document
from service.rest.streaming import GuardedStream
from service.security.auth import Authenticator
from service.settings import Settings

_LINES = (NDJSON, JSON_LINES)
_LINE_BYTES = 4096  # of a line, beside the image in it
_LINE_COPIES = 4  # of a line: as it is, as text, and its image twice
_TOKENS_BYTES = 16 * 2**10  # most of a line of tokens with their curve, usually 2 KiB

_FILES = {
    "schema": {
        "type": "object",
        "properties": {
            "image": {
                "type": "array",
                "items": {"type": "string", "format": "binary"},
                "description": "JPEG, PNG or WebP files, or pixels in parts with the Content-Type "
                "that /v1/encode takes for them; the names of the parts do not matter, those of "
                "the files become `id`",
            }
        },
    }
}

Handle = Callable[[Item, dict[str, Any]], Awaitable[dict[str, Any]]]
_HOW = (
    "The reply has a line of JSON for each item, in their order: a result, or the problem of this "
    "item alone. It starts when the whole body has arrived, while the items are worked on as they "
    "arrive. A line without `index` is the last one, and says why the others are missing. More "
    "items than `limits.max_batch_items` of /v1/tokenizers are refused with 413."
)


def add_routes(
    app: FastAPI,
    tokenization: Tokenization,
    bodies: Bodies,
    settings: Settings,
    authenticator: Authenticator,
) -> None:
    """Add /v1/encode:batch and /v1/decode:batch."""

    async def reply(
        request: Request, batch: Batch, items: AsyncGenerator[Item, None], media_type: str
    ) -> Response:
        try:
            async with authenticator.while_accepted(caller.get(), request.url.path):
                await batch.take(items)
        except BaseException:
            await batch.aclose()
            raise
        return GuardedStream(batch, media_type, authenticator, _last_line, bodies.memory, batch)

    @app.post(
        "/v1/encode:batch",
        **operation(
            "encodeBatch",
            "tokens",
            "Encode many images",
            "A multipart body with an image in each part, or a line of JSON for each. " + _HOW,
            body={MULTIPART_FORM: _FILES, NDJSON: lines(ImageItemDocument)},
            reply={NDJSON: lines(EncodedItemDocument, ItemProblemDocument)},
            refusals=(*WORK, BadK),
        ),
        response_class=Response,
    )
    async def encode_batch(
        request: Request,
        k: Annotated[
            str | None, INTEGER, Query(description="number of tokens to keep; all when absent")
        ] = None,
        quality: Annotated[
            str | None, STRING, Query(description="chooses k for each image, as in /v1/encode")
        ] = None,
        fit: Annotated[
            str, one_of(*FITS), Query(description="as in /v1/encode; crop when absent")
        ] = "crop",
        tokenizer: EncodeTokenizer = None,
    ) -> Response:
        media_type = negotiate(accept_of(request), _LINES)
        kept, target, shape = parse_k(k), parse_quality(quality), check_fit(fit)
        in_lines = require_content_type(request, (*_LINES, MULTIPART_FORM)) in _LINES
        items = (
            bodies.lines(request, 4 * settings.max_message_bytes // 3 + _LINE_BYTES)
            if in_lines
            else bodies.parts(request)
        )

        async def encode(item: Item, reply: dict[str, Any]) -> dict[str, Any]:
            data = item.take()
            if in_lines:
                await item.memory.grow(_LINE_COPIES * len(data))
                data = await image_of_line(data, reply)
                item.memory.shrink(COPIES * len(data))
            encoded = await tokenization.encode(
                image_in(item.content_type, data),
                kept,
                tokenizer,
                quality=target,
                fit=shape,
                rpc="encode_batch",
                timeout=settings.request_timeout_seconds,
                priority=Priority.BULK,
            )
            return tokens_document(encoded)

        batch = Batch(
            settings.stream_window,
            settings.max_batch_items,
            _to_lines(encode, _TOKENS_BYTES),
            small_replies=True,
        )
        return await reply(request, batch, items, media_type)

    @app.post(
        "/v1/decode:batch",
        **operation(
            "decodeBatch",
            "tokens",
            "Decode many token sequences",
            "A line of JSON for each sequence: those that encode:batch returns, or token bytes in "
            "base64. " + _HOW,
            body={NDJSON: lines(TokensItemDocument)},
            reply={NDJSON: lines(DecodedItemDocument, ItemProblemDocument)},
            refusals=WORK,
        ),
        response_class=Response,
    )
    async def decode_batch(
        request: Request,
        format: Annotated[
            str,
            one_of(*FORMATS_BY_NAME),
            Query(description="format of the images; png when absent"),
        ] = "png",
        tokenizer: DecodeTokenizer = None,
        aspect: Annotated[
            str | None,
            ASPECT,
            Query(description="width:height of all images, as in /v1/decode"),
        ] = None,
    ) -> Response:
        media_type = negotiate(accept_of(request), _LINES)
        (image_type,) = image_types(format)
        ratio = None if aspect is None else parse_aspect(aspect)
        require_content_type(request, _LINES)
        items = bodies.lines(request, MAX_DOCUMENT_BYTES)
        side = max((served.image_size for served in tokenization.tokenizers), default=0)
        reply_bytes = 4 * side**2 + _LINE_BYTES  # base64 of 3 bytes for each pixel

        async def decode(item: Item, reply: dict[str, Any]) -> dict[str, Any]:
            document = parse_object(item.take(), "the line")
            reply |= id_of(document)
            tokens, named, seen = tokens_of(document)
            decoded = await tokenization.decode(
                tokens,
                FORMATS[image_type],
                tokenizer or named,
                aspect=ratio or seen,
                rpc="decode_batch",
                timeout=settings.request_timeout_seconds,
                priority=Priority.BULK,
            )
            return {
                "tokenizer": decoded.tokenizer.name,
                "k": decoded.k,
                "media_type": image_type,
                "image": base64.b64encode(decoded.image).decode(),
            }

        batch = Batch(
            settings.stream_window,
            settings.max_batch_items,
            _to_lines(decode, reply_bytes),
            small_replies=False,
        )
        return await reply(request, batch, items, media_type)


def _to_lines(handle: Handle, reply_bytes: int) -> Work:
    """Work that makes a line of each item: what `handle` returns, or its error.

    handle: takes an item and the fields of its reply so far, to which it may add. reply_bytes: most
    of a line.
    """

    async def work(number: int, item: Item) -> bytes:
        reply: dict[str, Any] = {"index": number}
        if item.name is not None:
            reply["id"] = item.name
        try:
            await item.memory.grow(reply_bytes)
            reply |= await handle(item, reply)
        except Exception as error:
            reply |= _problem(error)
        line = orjson.dumps(reply) + b"\n"
        item.memory.shrink(len(line))
        return line

    return work


def _problem(error: Exception) -> dict[str, Any]:
    return to_problem(to_service_error(error)).model_dump()


def _last_line(error: Exception) -> bytes:
    return orjson.dumps(_problem(error)) + b"\n"
