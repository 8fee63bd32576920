"""The REST route of encode."""

from dataclasses import asdict
from typing import Annotated, Any

import orjson
from channeltok.fit import FITS, check_fit
from channeltok.tokens import ImageView
from fastapi import FastAPI, Query, Request, Response

from imaging import FORMATS, Pixels
from service.core.tokenization import Encoded, Tokenization
from service.errors import BadImage, BadK, TooManyPixels, UnknownTokenizer
from service.rest import headers
from service.rest.documents import FIT, QUALITY, EncodeDocument, TokensDocument
from service.rest.json_images import once
from service.rest.negotiation import (
    JSON,
    OCTETS,
    RGB8,
    TOKEN_BYTES,
    accept_of,
    image_in,
    negotiate,
    require_content_type,
)
from service.rest.openapi import BINARY, INTEGER, STRING, WORK, one_of, operation, schema
from service.rest.parameters import EncodeTokenizer
from service.rest.requests import Bodies, cancel_on_disconnect, parse_k, parse_quality
from service.rest.results import result_headers, tokens_document
from service.settings import Settings


def add_routes(
    app: FastAPI, tokenization: Tokenization, bodies: Bodies, settings: Settings
) -> None:
    """Add /v1/encode."""

    @app.post(
        "/v1/encode",
        **operation(
            "encode",
            "tokens",
            "Encode an image to its first k tokens",
            "The body is the image file, or JSON with the image in base64 and, if you like, the "
            "parameters. Pixels need no file format: `Content-Type: image/x-rgb8; width=128; "
            "height=128`, and for each pixel, in rows from the top, a byte of red, green and blue "
            "in sRGB.",
            body={
                **dict.fromkeys(FORMATS, BINARY),
                RGB8: BINARY,
                OCTETS: BINARY,
                JSON: schema(EncodeDocument),
            },
            reply={JSON: schema(TokensDocument), OCTETS: BINARY, TOKEN_BYTES: BINARY},
            reply_headers=(headers.TIMING, headers.ENGINE, headers.VIEW),
            refusals=(*WORK, BadImage, BadK, TooManyPixels, UnknownTokenizer),
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
        tokenizer: EncodeTokenizer = None,
    ) -> Response:
        media_type = negotiate(accept_of(request), (JSON, OCTETS, TOKEN_BYTES))
        content_type = require_content_type(request, (*FORMATS, RGB8, OCTETS, JSON))
        query = {"k": parse_k(k), "quality": quality, "fit": fit, "tokenizer": tokenizer}

        async def run(image: bytes | Pixels, options: dict[str, Any]) -> Encoded:
            work = tokenization.encode(
                image,
                options["k"],
                options["tokenizer"],
                quality=parse_quality(options["quality"]),
                fit=check_fit("crop" if options["fit"] is None else options["fit"]),
                timeout=settings.request_timeout_seconds,
            )
            return await cancel_on_disconnect(request, work)

        if content_type == JSON:
            async with bodies.json_image(request) as (image, document):
                encoded = await run(image, once(query, document))
        else:
            async with bodies.image(request) as body:
                encoded = await run(image_in(request.headers.get("content-type", ""), body), query)
        content = (
            orjson.dumps(tokens_document(encoded))
            if media_type == JSON
            else encoded.tokens.to_bytes()
        )
        reply_headers = result_headers(encoded.stages, encoded.engine)
        if encoded.tokens.view is not None:
            reply_headers[headers.VIEW] = _view_header(encoded.tokens.view)
        return Response(content, media_type=media_type, headers=reply_headers)


def _view_header(view: ImageView) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(view).items())
