"""The REST application: its routes, which translate between HTTP and service.core."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from channeltok.fit import FITS, check_fit, parse_aspect
from channeltok.tokens import ImageView, Tokens
from fastapi import FastAPI, Query, Request, Response
from fastapi_offline import FastAPIOffline

from imaging import FORMATS
from service.core.memory import MAX_DOCUMENT_BYTES
from service.core.refusals import Refusals
from service.core.tokenization import MAX_PREFIXES, Tokenization
from service.rest.documents import TokenizersDocument, TokensDocument
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
from service.rest.problems import PROBLEM, Problem, add_error_handlers
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

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_VIEW = "ChannelTok-View"
_VIEW_MEANING = (
    "what the tokenizer saw, in pixels: width and height of the whole image, then the part of it "
    "that was seen; a dictionary of RFC 8941"
)


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
    app = FastAPIOffline(  # its /docs needs no network; FastAPI's own loads scripts from a CDN
        title="ChannelTok Serving",
        version="1",
        description="Images to short, ordered token sequences and back.",
        redirect_slashes=False,
        responses={
            "4XX": {"model": Problem, "content": {PROBLEM: {}}},
            "5XX": {"model": Problem, "content": {PROBLEM: {}}},
        },
    )
    app.router.route_class = StrictRoute
    add_error_handlers(app, refusals)

    @app.post(
        "/v1/encode",
        summary="Encode an image to its first k tokens",
        openapi_extra={
            "requestBody": {"required": True, "content": dict.fromkeys(FORMATS, _BINARY)}
        },
        responses={
            200: {
                "model": TokensDocument,
                "content": {OCTETS: _BINARY},
                "headers": {_VIEW: {"schema": {"type": "string"}, "description": _VIEW_MEANING}},
            }
        },
        response_class=Response,
    )
    async def encode(
        request: Request,
        k: Annotated[
            str | None,
            Query(
                description="number of tokens to keep; all when absent",
                json_schema_extra={"type": "integer", "minimum": 1},
            ),
        ] = None,
        quality: Annotated[
            str | None,
            Query(
                description="instead of k: ssim=0.6, psnr=24, ssim_per_token=0.001, max_bytes=128, "
                "or max_bytes with one of the others"
            ),
        ] = None,
        fit: Annotated[
            str,
            Query(
                description="what the tokenizer sees of an image that is not square: crop, the "
                "centred square; pad, the whole image with two bands that make it square",
                json_schema_extra={"enum": list(FITS)},
            ),
        ] = "crop",
        tokenizer: Annotated[
            str | None, Query(description="name of the tokenizer; the default one when absent")
        ] = None,
    ) -> Response:
        media_type = negotiate(accept_of(request), (JSON, OCTETS, TOKEN_BYTES))
        require_content_type(request, (*FORMATS, OCTETS))
        async with bodies.image(request) as image:
            work = tokenization.encode(
                image,
                parse_k(k),
                tokenizer,
                quality=parse_quality(quality),
                fit=check_fit(fit),
                timeout=settings.request_timeout_seconds,
            )
            encoded = await cancel_on_disconnect(request, work)
        content = (
            orjson.dumps(tokens_document(encoded))
            if media_type == JSON
            else encoded.tokens.to_bytes()
        )
        headers = result_headers(encoded.stages, encoded.engine)
        if encoded.tokens.view is not None:
            headers[_VIEW] = _view_header(encoded.tokens.view)
        return Response(content, media_type=media_type, headers=headers)

    @app.post(
        "/v1/decode",
        summary="Decode tokens to an image, or several prefixes of them to an image each",
        description="With several values of k: server-sent events, a `preview` for each k in the "
        "order given, then `done`; or `error`, with a problem as its data. A request that cannot "
        "be served gets a problem before any event. With `Accept: multipart/mixed`: one part for "
        f"each k, named by its header `{K_HEADER}`. The prefixes are one batch of the engine.",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {"schema": TokensDocument.model_json_schema()},
                    OCTETS: _BINARY,
                    TOKEN_BYTES: _BINARY,
                },
            }
        },
        responses={
            200: {
                "content": {
                    **dict.fromkeys(FORMATS, _BINARY),
                    EVENT_STREAM: {"schema": {"type": "string"}},
                    MULTIPART: {"schema": {"type": "string"}},
                }
            }
        },
        response_class=Response,
    )
    async def decode(
        request: Request,
        k: Annotated[
            str | None,
            Query(
                description="decode the first k tokens only; all when absent. Several, with commas "
                f"between them, such as 8,16,32: an image for each; at most {MAX_PREFIXES}",
                json_schema_extra={"pattern": "^[0-9]+(,[0-9]+)*$"},
            ),
        ] = None,
        format: Annotated[
            str | None,
            Query(
                description="format of the image; when absent, Accept chooses it, and with several "
                "k it is png",
                json_schema_extra={"enum": list(FORMATS_BY_NAME)},
            ),
        ] = None,
        tokenizer: Annotated[
            str | None,
            Query(description="name of the tokenizer; found by fingerprint when absent"),
        ] = None,
        aspect: Annotated[
            str | None,
            Query(
                description="width:height of an image that was encoded with fit=pad, such as 3:2 "
                "or 1920:1080: its bands are removed. 1:1 gives the whole square. When absent: as "
                "the `view` of a JSON body says, else the whole square",
                json_schema_extra={"pattern": "^[0-9]{1,7}:[0-9]{1,7}$"},
            ),
        ] = None,
    ) -> Response:
        ks = parse_ks(k)
        formats = image_types(format)
        several = len(ks) > 1
        media_type = negotiate(
            accept_of(request), (EVENT_STREAM, MULTIPART) if several else formats
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
        work = tokenization.decode(
            tokens,
            FORMATS[media_type],
            tokenizer,
            k=ks[0] if ks else None,
            aspect=ratio,
            timeout=timeout,
        )
        decoded = await cancel_on_disconnect(request, work)
        headers = result_headers(decoded.stages, decoded.engine)
        return Response(decoded.image, media_type=media_type, headers=headers)

    @app.get("/v1/tokenizers", summary="List the served tokenizers, and the limits of calls")
    async def tokenizers() -> TokenizersDocument:
        infos = [asdict(served.info()) for served in tokenization.tokenizers]
        limits = {
            "max_message_bytes": settings.max_message_bytes,
            "max_document_bytes": MAX_DOCUMENT_BYTES,
            "max_prefixes": MAX_PREFIXES,
            "max_batch_items": settings.max_batch_items,
        }
        return TokenizersDocument.model_validate({"tokenizers": infos, "limits": limits})

    @app.get("/livez", summary="Liveness: the process responds", response_class=Response)
    async def livez() -> Response:
        return Response("alive\n", media_type="text/plain")

    @app.get(
        "/readyz",
        summary="Readiness: every engine passed a recent test inference",
        response_class=Response,
    )
    async def readyz() -> Response:
        ready = is_ready()
        return Response(
            "ready\n" if ready else "not ready\n", 200 if ready else 503, media_type="text/plain"
        )

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(await exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _view_header(view: ImageView) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(view).items())
