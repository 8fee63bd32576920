"""The REST route of decode, at one k or several."""

import base64
from typing import Annotated

import orjson
from channeltok.fit import parse_aspect
from channeltok.tokens import Tokens
from fastapi import FastAPI, Query, Request, Response
from pydantic import WithJsonSchema

from imaging import FORMATS
from service.core.tokenization import MAX_PREFIXES, Decoded, Tokenization
from service.errors import BadK, BadTokens, FingerprintMismatch, UnknownTokenizer
from service.rest import headers
from service.rest.documents import DecodeDocument, DecodeDone, ImageDocument
from service.rest.negotiation import (
    EVENT_STREAM,
    FORMATS_BY_NAME,
    JSON,
    MULTIPART,
    OCTETS,
    TOKEN_BYTES,
    accept_of,
    image_types,
    negotiate,
    require_content_type,
)
from service.rest.openapi import (
    ASPECT,
    BINARY,
    TEXT,
    WORK,
    events,
    one_of,
    operation,
    schema,
)
from service.rest.parameters import DecodeTokenizer
from service.rest.problems import Problem
from service.rest.progressive import K_HEADER, events_reply, multipart_reply
from service.rest.requests import Bodies, cancel_on_disconnect, parse_ks, parse_tokens
from service.rest.results import result_headers
from service.security.auth import Authenticator
from service.settings import Settings

_K = WithJsonSchema(
    {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": "^[0-9]+(,[0-9]+)*$"},
        ]
    }
)


def add_routes(
    app: FastAPI,
    tokenization: Tokenization,
    bodies: Bodies,
    settings: Settings,
    authenticator: Authenticator,
) -> None:
    """Add /v1/decode."""

    @app.post(
        "/v1/decode",
        **operation(
            "decode",
            "tokens",
            "Decode tokens to an image, or several prefixes of them to an image each",
            "With several values of k: server-sent events, a `preview` for each k in the order "
            "given, then `done`; or `error`, with a problem as its data. A request that cannot be "
            "served gets a problem before any event. With `Accept: multipart/mixed`: one part for "
            f"each k, named by its header `{K_HEADER}`. The prefixes are one batch of the engine.",
            body={JSON: schema(DecodeDocument), OCTETS: BINARY, TOKEN_BYTES: BINARY},
            reply={
                **dict.fromkeys(image_types(None), BINARY),
                JSON: schema(ImageDocument),
                EVENT_STREAM: events(preview=ImageDocument, done=DecodeDone, error=Problem),
                MULTIPART: TEXT,
            },
            reply_headers=(headers.TIMING, headers.ENGINE),
            refusals=(*WORK, BadK, BadTokens, UnknownTokenizer, FingerprintMismatch),
        ),
        response_class=Response,
    )
    async def decode(
        request: Request,
        k: Annotated[
            str | None,
            _K,
            Query(
                description="decode the first k tokens only; all when absent. Several, with commas "
                f"between them, such as 8,16,32: an image for each; at most {MAX_PREFIXES}",
            ),
        ] = None,
        format: Annotated[
            str | None,
            one_of(*FORMATS_BY_NAME),
            Query(
                description="format of the image; when absent, Accept chooses it, and in JSON or "
                "with several k it is png",
            ),
        ] = None,
        tokenizer: DecodeTokenizer = None,
        aspect: Annotated[
            str | None,
            ASPECT,
            Query(
                description="width:height of an image that was encoded with fit=pad, such as 3:2 "
                "or 1920:1080: its bands are removed. 1:1 gives the whole square. When absent: as "
                "the `view` of a JSON body says, else the whole square",
            ),
        ] = None,
    ) -> Response:
        ks = parse_ks(k)
        formats = image_types(format)
        several = len(ks) > 1
        media_type = negotiate(
            accept_of(request), (EVENT_STREAM, MULTIPART) if several else (*formats, JSON)
        )
        content_type = require_content_type(request, (JSON, OCTETS, TOKEN_BYTES))
        body = await bodies.document(request)
        tokens: Tokens | bytes = body
        if content_type == JSON:
            tokens, named = parse_tokens(body)
            tokenizer = tokenizer or named
        ratio = None if aspect is None else parse_aspect(aspect)
        timeout = settings.request_timeout_seconds
        if several:
            images = tokenization.decode_progressive(
                tokens, ks, FORMATS[formats[0]], tokenizer, aspect=ratio, timeout=timeout
            )
            if media_type == EVENT_STREAM:
                return await events_reply(request, images, formats[0], authenticator, bodies.memory)
            return await multipart_reply(request, images, formats[0])
        image_type = formats[0] if media_type == JSON else media_type
        work = tokenization.decode(
            tokens,
            FORMATS[image_type],
            tokenizer,
            k=ks[0] if ks else None,
            aspect=ratio,
            timeout=timeout,
        )
        decoded = await cancel_on_disconnect(request, work)
        content = _image_json(decoded, image_type) if media_type == JSON else decoded.image
        reply_headers = result_headers(decoded.stages, decoded.engine)
        return Response(content, media_type=media_type, headers=reply_headers)


def _image_json(decoded: Decoded, image_type: str) -> bytes:
    """An ImageDocument."""
    image = base64.b64encode(decoded.image).decode()
    return orjson.dumps({"k": decoded.k, "media_type": image_type, "image": image})
