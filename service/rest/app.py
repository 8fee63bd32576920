"""The REST application: its routes, which translate between HTTP and service.core."""

import base64
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import cache
from typing import Annotated, Any

import orjson
from channeltok.fit import FITS, check_fit, parse_aspect
from channeltok.tokens import ImageView, Tokens
from fastapi import FastAPI, Query, Request, Response
from pydantic import WithJsonSchema

from imaging import FORMATS
from service.core.memory import MAX_DOCUMENT_BYTES
from service.core.refusals import Refusals
from service.core.tokenization import MAX_PREFIXES, Decoded, Encoded, Tokenization
from service.errors import (
    BadImage,
    BadK,
    BadTokens,
    FingerprintMismatch,
    TooManyPixels,
    UnknownTokenizer,
)
from service.rest import headers, reference
from service.rest.documents import (
    FIT,
    QUALITY,
    DecodeDocument,
    DecodeDone,
    EncodeDocument,
    ImageDocument,
    TokenizersDocument,
    TokensDocument,
)
from service.rest.json_images import once
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
    ANY,
    ASPECT,
    BINARY,
    INTEGER,
    STRING,
    TEXT,
    WORK,
    document,
    events,
    one_of,
    operation,
    schema,
)
from service.rest.problems import Problem, add_error_handlers
from service.rest.progressive import K_HEADER, events_reply, multipart_reply
from service.rest.requests import (
    Bodies,
    cancel_on_disconnect,
    parse_k,
    parse_ks,
    parse_quality,
    parse_tokens,
)
from service.rest.results import result_headers, tokens_document
from service.rest.routes import StrictRoute
from service.security.auth import Authenticator
from service.settings import Settings

_IMAGE = (BadImage, BadK, TooManyPixels)


def create_app(
    tokenization: Tokenization,
    bodies: Bodies,
    refusals: Refusals,
    settings: Settings,
    authenticator: Authenticator,
    is_ready: Callable[[], bool],
    exposition: Callable[[], Awaitable[bytes]],
) -> FastAPI:
    """The application. is_ready: readiness for /readyz. exposition: returns the text of /metrics.

    service/rest/generate.py adds the routes of generation, service/rest/batch_routes.py those of
    batches.
    """
    app = FastAPI(
        title="ChannelTok Serving",
        version="1",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=reference.DOCUMENT,
    )
    app.openapi = cache(lambda: document(app))  # type: ignore[method-assign]
    app.router.route_class = StrictRoute
    add_error_handlers(app, refusals)
    reference.add_routes(app)

    @app.post(
        "/v1/encode",
        **operation(
            "encode",
            "tokens",
            "Encode an image to its first k tokens",
            "The body is the image file, or JSON with the image in base64 and, if you like, the "
            "parameters.",
            body={
                **dict.fromkeys(FORMATS, BINARY),
                OCTETS: BINARY,
                JSON: schema(EncodeDocument),
            },
            reply={JSON: schema(TokensDocument), OCTETS: BINARY, TOKEN_BYTES: BINARY},
            reply_headers=(headers.TIMING, headers.ENGINE, headers.VIEW),
            refusals=(*WORK, *_IMAGE, UnknownTokenizer),
        ),
        response_class=Response,
    )
    async def encode(
        request: Request,
        k: Annotated[
            str | None,
            INTEGER,
            Query(description="number of tokens to keep; all when absent"),
        ] = None,
        quality: Annotated[str | None, STRING, Query(description=QUALITY)] = None,
        fit: Annotated[
            str | None,
            one_of(*FITS),
            Query(description=FIT),
        ] = None,
        tokenizer: Annotated[
            str | None,
            STRING,
            Query(description="name of the tokenizer; the default one when absent"),
        ] = None,
    ) -> Response:
        media_type = negotiate(accept_of(request), (JSON, OCTETS, TOKEN_BYTES))
        content_type = require_content_type(request, (*FORMATS, OCTETS, JSON))
        query = {"k": parse_k(k), "quality": quality, "fit": fit, "tokenizer": tokenizer}

        async def run(image: bytes, options: dict[str, Any]) -> Encoded:
            work = tokenization.encode(
                image,
                options["k"],
                options["tokenizer"],
                quality=parse_quality(options["quality"]),
                fit=check_fit(options["fit"] or "crop"),
                timeout=settings.request_timeout_seconds,
            )
            return await cancel_on_disconnect(request, work)

        if content_type == JSON:
            async with bodies.json_image(request) as (image, document):
                encoded = await run(image, once(query, document))
        else:
            async with bodies.image(request) as image:
                encoded = await run(image, query)
        content = (
            orjson.dumps(tokens_document(encoded))
            if media_type == JSON
            else encoded.tokens.to_bytes()
        )
        reply_headers = result_headers(encoded.stages, encoded.engine)
        if encoded.tokens.view is not None:
            reply_headers[headers.VIEW] = _view_header(encoded.tokens.view)
        return Response(content, media_type=media_type, headers=reply_headers)

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
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "integer", "minimum": 1},
                        {"type": "string", "pattern": "^[0-9]+(,[0-9]+)*$"},
                    ]
                }
            ),
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
        tokenizer: Annotated[
            str | None,
            STRING,
            Query(description="name of the tokenizer; found by fingerprint when absent"),
        ] = None,
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
            events = tokenization.decode_progressive(
                tokens, ks, FORMATS[formats[0]], tokenizer, aspect=ratio, timeout=timeout
            )
            if media_type == EVENT_STREAM:
                return await events_reply(request, events, formats[0], authenticator, bodies.memory)
            return await multipart_reply(request, events, formats[0])
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

    @app.get(
        "/v1/tokenizers",
        **operation(
            "listTokenizers",
            "tokens",
            "List the served tokenizers, and the limits of calls",
            "The default one is the first.",
            reply={JSON: schema(TokenizersDocument)},
        ),
    )
    async def tokenizers() -> TokenizersDocument:
        infos = [asdict(served.info()) for served in tokenization.tokenizers]
        limits = {
            "max_message_bytes": settings.max_message_bytes,
            "max_document_bytes": MAX_DOCUMENT_BYTES,
            "max_prefixes": MAX_PREFIXES,
            "max_batch_items": settings.max_batch_items,
        }
        return TokenizersDocument.model_validate({"tokenizers": infos, "limits": limits})

    @app.get(
        "/livez",
        **operation(
            "livez",
            "operation",
            "Liveness: the process responds",
            "Needs no token.",
            reply={"text/plain": TEXT},
            refusals=ANY,
            needs_token=False,
        ),
        response_class=Response,
    )
    async def livez() -> Response:
        return Response("alive\n", media_type="text/plain")

    @app.get(
        "/readyz",
        **operation(
            "readyz",
            "operation",
            "Readiness: every engine passed a recent test inference",
            "Needs no token. 503 while it is not ready.",
            reply={"text/plain": TEXT},
            other_replies={503: {"text/plain": TEXT}},
            refusals=ANY,
            needs_token=False,
        ),
        response_class=Response,
    )
    async def readyz() -> Response:
        ready = is_ready()
        return Response(
            "ready\n" if ready else "not ready\n", 200 if ready else 503, media_type="text/plain"
        )

    @app.get(
        "/metrics",
        **operation(
            "metrics",
            "operation",
            "Prometheus metrics",
            "In the text format of Prometheus.",
            reply={"text/plain": TEXT},
        ),
        response_class=Response,
    )
    async def metrics() -> Response:
        return Response(await exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _image_json(decoded: Decoded, image_type: str) -> bytes:
    """An ImageDocument."""
    image = base64.b64encode(decoded.image).decode()
    return orjson.dumps({"k": decoded.k, "media_type": image_type, "image": image})


def _view_header(view: ImageView) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(view).items())
