"""The REST face: translates between HTTP and tokenization, and nothing else. Errors are RFC 9457 problem+json."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import orjson
import structlog
from channeltok.quality import Quality
from channeltok.tokens import Tokens
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from imaging import FORMATS
from service.core.call_record import Stages
from service.core.tokenization import Tokenization
from service.errors import (
    BadK,
    BadRequest,
    BadTokens,
    NotAcceptable,
    ServiceError,
    TooLarge,
    TooSlow,
    Unauthenticated,
    UnsupportedFormat,
)
from service.observability.request_context import current_request_id
from service.settings import Settings

log = structlog.get_logger()
OCTETS = "application/octet-stream"
TOKEN_BYTES = "application/vnd.channeltok.tokens"
JSON = "application/json"
PROBLEM = "application/problem+json"
ENGINE = "ChannelTok-Engine"  # header of a reply: what computed it, "openvino bf16"
_Result = TypeVar("_Result")
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


class MeasuredDocument(BaseModel):
    """What the image is like that the first k tokens make."""

    k: int
    ssim: Annotated[
        float,
        Field(description="structural similarity to the image as the tokenizer sees it, at most 1"),
    ]
    psnr: Annotated[float, Field(description="peak signal-to-noise ratio, dB")]


class TokensDocument(BaseModel):
    """Tokens as JSON: what encode answers and decode takes."""

    tokenizer: Annotated[
        str, Field(description="name of the tokenizer that made them; decode takes it as optional")
    ]
    fingerprint: Annotated[
        str, Field(description="16 hex digits that bind the tokens to the training that made them")
    ]
    k: Annotated[
        int, Field(ge=1, description="number of ids; decode takes it as optional, but it must fit")
    ]
    tokens: Annotated[
        list[int], Field(description="ids, 0 to 65535, coarse to fine; any prefix decodes")
    ]
    curve: Annotated[
        list[MeasuredDocument] | None,
        Field(
            description="where a quality was asked for: all k that were tried; decode does not read it"
        ),
    ] = None


class Problem(BaseModel):
    """RFC 9457. `code` is stable: branch on it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str


class TokenizerDocument(BaseModel):
    """One served tokenizer."""

    name: str
    family: str
    fingerprint: str
    max_tokens: Annotated[int, Field(description="tokens of a whole image: the largest k")]
    bits_per_token: int
    vocab_size: Annotated[
        int, Field(description="how many ids a token may have: 0 to vocab_size - 1")
    ]
    image_size: Annotated[
        int, Field(description="side of the square image it sees and makes, in pixels")
    ]
    budgets: Annotated[list[int], Field(description="budgets with a decode engine, ascending")]


class TokenizersDocument(BaseModel):
    """All served tokenizers, the default one first."""

    tokenizers: list[TokenizerDocument]


def create_app(
    tokenization: Tokenization,
    settings: Settings,
    is_ready: Callable[[], bool],
    exposition: Callable[[], Awaitable[bytes]],
) -> FastAPI:
    """The application. is_ready: what /readyz answers. exposition: the text of /metrics."""
    app = FastAPIOffline(  # its /docs needs no network; FastAPI's own loads scripts from a CDN
        title="ChannelTok Serving",
        version="1",
        description="Images to short, ordered token sequences and back.",
        responses={
            "4XX": {"model": Problem, "content": {PROBLEM: {}}},
            "5XX": {"model": Problem, "content": {PROBLEM: {}}},
        },
    )
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unforeseen)

    @app.post(
        "/v1/encode",
        summary="An image to its first k tokens",
        openapi_extra={
            "requestBody": {"required": True, "content": dict.fromkeys(FORMATS, _BINARY)}
        },
        responses={200: {"model": TokensDocument, "content": {OCTETS: _BINARY}}},
        response_class=Response,
    )
    async def encode(
        request: Request,
        k: Annotated[
            str | None,
            Query(
                description="how many tokens to keep; all when absent",
                json_schema_extra={"type": "integer", "minimum": 1},
            ),
        ] = None,
        quality: Annotated[
            str | None,
            Query(
                description="instead of k: ssim=0.6, psnr=24 or ssim_per_token=0.001, max_bytes=128, or one of the three and max_bytes"
            ),
        ] = None,
        tokenizer: Annotated[
            str | None, Query(description="name of the tokenizer; the default one when absent")
        ] = None,
        accept: Annotated[str, Header()] = "*/*",
    ) -> Response:
        media_type = _negotiate(accept, (JSON, OCTETS, TOKEN_BYTES))
        require_content_type(request, (*FORMATS, OCTETS))
        image = await read_body(request, settings)
        work = tokenization.encode(
            image,
            _parse_k(k),
            tokenizer,
            quality=_parse_quality(quality),
            timeout=settings.request_timeout_seconds,
        )
        encoded = await unless_gone(request, work)
        headers = {"Server-Timing": _server_timing(encoded.stages), ENGINE: encoded.engine}
        if media_type != JSON:
            return Response(encoded.tokens.to_bytes(), media_type=media_type, headers=headers)
        document = {
            "tokenizer": encoded.tokenizer.name,
            "fingerprint": encoded.tokenizer.fingerprint,
            "k": encoded.tokens.k,
            "tokens": encoded.tokens.ids.tolist(),
            **({"curve": [asdict(one) for one in encoded.curve]} if encoded.curve else {}),
        }
        return Response(orjson.dumps(document), media_type=JSON, headers=headers)

    @app.post(
        "/v1/decode",
        summary="Tokens to an image",
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
        responses={200: {"content": dict.fromkeys(FORMATS, _BINARY)}},
        response_class=Response,
    )
    async def decode(
        request: Request,
        tokenizer: Annotated[
            str | None, Query(description="name of the tokenizer; by fingerprint when absent")
        ] = None,
        accept: Annotated[str, Header()] = "*/*",
    ) -> Response:
        media_type = _negotiate(accept, ("image/png", "image/jpeg", "image/webp"))
        content_type = require_content_type(request, (JSON, OCTETS, TOKEN_BYTES))
        body = await read_body(request, settings)
        tokens: Tokens | bytes = body
        if content_type == JSON:
            tokens, named = _parse_tokens(body)
            tokenizer = tokenizer or named
        work = tokenization.decode(
            tokens, FORMATS[media_type], tokenizer, timeout=settings.request_timeout_seconds
        )
        decoded = await unless_gone(request, work)
        headers = {"Server-Timing": _server_timing(decoded.stages), ENGINE: decoded.engine}
        return Response(decoded.image, media_type=media_type, headers=headers)

    @app.get("/v1/tokenizers", summary="What is served now")
    async def tokenizers() -> TokenizersDocument:
        return TokenizersDocument(
            tokenizers=[
                TokenizerDocument(
                    name=served.name,
                    family=served.family,
                    fingerprint=served.fingerprint,
                    max_tokens=served.max_tokens,
                    bits_per_token=served.bits_per_token,
                    vocab_size=served.vocab_size,
                    image_size=served.image_size,
                    budgets=list(served.decoders),
                )
                for served in tokenization.tokenizers
            ]
        )

    @app.get("/livez", summary="The process answers", response_class=Response)
    async def livez() -> Response:
        return Response("alive\n", media_type="text/plain")

    @app.get(
        "/readyz",
        summary="A real inference through every engine succeeded lately",
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


def _parse_k(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise BadK(f"k is {text[:40]!r}; it takes a whole number") from error


def _parse_quality(text: str | None) -> Quality | None:
    if text is None:
        return None
    try:
        return Quality.parse(text)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _parse_tokens(body: bytes) -> tuple[Tokens, str | None]:
    """Raises BadRequest when it is no JSON, and as `tokens_of`."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    return tokens_of(document, "the body")


def tokens_of(document: Any, where: str) -> tuple[Tokens, str | None]:
    """A TokensDocument, and its tokenizer if it names one. Raises BadRequest when it is none, BadTokens when its ids are wrong."""
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("tokens"), list)
        or not isinstance(document.get("fingerprint"), str)
    ):
        raise BadRequest(
            f'{where} must be {{"fingerprint": "16 hex digits", "tokens": [ids]}}, as encode answers it'
        )
    ids, named, k = (
        document["tokens"],
        document.get("tokenizer"),
        document.get("k", len(document["tokens"])),
    )
    if named is not None and not isinstance(named, str):
        raise BadRequest("tokenizer must be a name")
    if k != len(ids):
        raise BadTokens(f"k is {str(k)[:20]}, but there are {len(ids)} ids")
    wrong = next((id_ for id_ in ids if type(id_) is not int or not 0 <= id_ <= 65535), None)
    if wrong is not None:
        raise BadTokens(f"an id is {str(wrong)[:40]}; ids are whole numbers from 0 to 65535")
    try:
        return Tokens(ids, document["fingerprint"]), named
    except ValueError as error:
        raise BadTokens(str(error)) from error


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body, never more than `max_message_bytes` of it in memory. Raises TooLarge, and TooSlow after `receive_seconds`."""
    limit = settings.max_message_bytes
    refusal = TooLarge(f"the body is larger than {limit:,} bytes, the limit")
    if int(request.headers.get("content-length", 0)) > limit:
        raise refusal
    body = bytearray()
    try:
        async with asyncio.timeout(settings.receive_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise refusal
    except TimeoutError as error:
        raise TooSlow(f"the body did not arrive within {settings.receive_seconds:g} s") from error
    return bytes(body)


async def unless_gone(request: Request, work: Awaitable[_Result]) -> _Result:
    """Await `work`, whose request has been read; drop it when the caller leaves. Raises ClientDisconnect then."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():  # after the whole body nothing else is received
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def require_content_type(request: Request, allowed: tuple[str, ...]) -> str:
    """The request's media type; the first allowed one when it names none, as curl --data-binary's form type counts as none."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given in ("", "application/x-www-form-urlencoded"):
        return allowed[0]
    if given not in allowed:
        raise UnsupportedFormat(
            f"content type {given[:60]!r} is not taken here; send one of {', '.join(allowed)}"
        )
    return given


def _negotiate(accept: str, offers: tuple[str, ...]) -> str:
    """The offer the Accept header likes best (RFC 9110), the first of equals. Raises NotAcceptable."""
    quality: dict[str, float] = {}
    for part in accept.split(","):
        media_range, *parameters = (piece.strip() for piece in part.lower().split(";"))
        weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        try:
            quality[media_range] = float(weights[0]) if weights else 1.0
        except ValueError:
            quality[media_range] = 0.0

    def liking(offer: str) -> float:
        return next(
            (quality[r] for r in (offer, offer.partition("/")[0] + "/*", "*/*") if r in quality),
            0.0,
        )

    best = max(offers, key=liking)
    if liking(best) == 0:
        raise NotAcceptable(f"Accept is {accept[:100]!r}; on offer are {', '.join(offers)}")
    return best


def _server_timing(stages: Stages) -> str:
    return ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in stages.items())


def _problem(
    status: int, title: str, detail: str, code: str, headers: dict[str, str] | None = None
) -> Response:
    return _reply(Problem(title=title, status=status, detail=detail, code=code), headers)


def _reply(told: Problem, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(told.model_dump()), told.status, headers, media_type=PROBLEM)


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem(error)


def problem(error: ServiceError) -> Response:
    """What a caller gets for this error."""
    # Whole seconds, at least 1: Retry-After knows no fractions.
    headers = (
        {}
        if error.retry_after is None
        else {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    )
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return _reply(document_of(error), headers)


def document_of(error: ServiceError) -> Problem:
    """What a caller is told of this error."""
    return Problem(title=error.title, status=error.http, detail=error.detail, code=error.code)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, detail = {
        404: ("NO_SUCH_PATH", f"there is nothing at {request.url.path[:100]}; see /docs"),
        405: ("METHOD_NOT_ALLOWED", f"{request.method} is not possible here; see /docs"),
    }.get(error.status_code, ("BAD_REQUEST", str(error.detail)))
    return _problem(
        error.status_code,
        HTTPStatus(error.status_code).phrase,
        detail,
        code,
        dict(error.headers or {}),
    )


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return problem(BadRequest(wrong[:300]))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it: the caller left while sending


async def _on_unforeseen(request: Request, error: Exception) -> Response:
    return problem(to_service_error(error))


def to_service_error(error: Exception) -> ServiceError:
    """The error as callers may know it. What we did not foresee is logged here and becomes INTERNAL without a word of it."""
    if isinstance(error, ServiceError):
        return error
    log.exception("internal_error", exc_info=error)
    return ServiceError(f"an error of ours; it was logged under request id {current_request_id()}")
