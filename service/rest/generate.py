"""REST's generate: a JSON body in, server-sent events out. Translates, and nothing else.

What goes wrong before the first event is an ordinary problem; what goes wrong later is the last event, `error`, with that problem.
"""

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive, Scope, Send

from service.core.generation import (
    MAX_PREVIEWS,
    MAX_SEED,
    MAX_TEMPERATURE,
    TEMPERATURE,
    TOP_K,
    Event,
    Finished,
    GenerateRequest,
    Generation,
    NewTokens,
    Preview,
    Started,
)
from service.errors import BadRequest
from service.rest.app import (
    JSON,
    document_of,
    read_body,
    require_content_type,
    to_service_error,
    tokens_of,
    unless_gone,
)
from service.settings import Settings

EVENT_STREAM = "text/event-stream"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}  # the latter for proxies that would gather events


class GenerateDocument(BaseModel):
    """What is to be generated; {} is all defaults."""

    model_config = ConfigDict(strict=True, extra="forbid")

    generator: Annotated[
        str | None, Field(description="name of the generator; the default one when absent")
    ] = None
    class_name: Annotated[
        str | None,
        Field(alias="class", description="one of the generator's classes; none when absent"),
    ] = None
    prefix: Annotated[
        dict[str, Any] | None,
        Field(
            description="tokens that the sequence begins with, as encode answers them: an image to be gone on with; at most k"
        ),
    ] = None
    k: Annotated[
        int | None,
        Field(description="tokens of the whole sequence; the generator's max_tokens when absent"),
    ] = None
    seed: Annotated[
        int | None,
        Field(
            description=f"0 to {MAX_SEED}; the same gives the same tokens. Drawn, and told in `start`, when absent"
        ),
    ] = None
    temperature: Annotated[
        float | None,
        Field(
            description=f"0 (the likeliest each time) to {MAX_TEMPERATURE:g}; {TEMPERATURE} when absent"
        ),
    ] = None
    top_k: Annotated[
        int | None,
        Field(
            description=f"draw from so many of the likeliest ids; 0: from all; {TOP_K}, or all of fewer, when absent"
        ),
    ] = None
    previews: Annotated[
        list[int],
        Field(
            description=f"budgets, at most {MAX_PREVIEWS}, at which the image so far is decoded and sent"
        ),
    ] = []
    preview_format: Literal["png", "jpeg", "webp"] = "png"

    def wanted(self) -> GenerateRequest:
        """Raises BadRequest, BadTokens."""
        given = self.model_dump(exclude={"prefix", "preview_format"})
        prefix = b"" if self.prefix is None else tokens_of(self.prefix, "prefix")[0]
        return GenerateRequest(**given, prefix=prefix, preview_format=self.preview_format.upper())


class GeneratorDocument(BaseModel):
    """One served generator."""

    name: str
    family: str
    generator_fingerprint: Annotated[str, Field(description="16 hex digits that name its training")]
    tokenizer: Annotated[str, Field(description="name of the tokenizer that decodes what it makes")]
    fingerprint: Annotated[str, Field(description="fingerprint of that tokenizer")]
    max_tokens: Annotated[int, Field(description="the largest k")]
    classes: Annotated[
        list[str], Field(description="what `class` may be; empty where it knows none")
    ]


class GeneratorsDocument(BaseModel):
    """All served generators, the default one first."""

    generators: list[GeneratorDocument]


def add_routes(app: FastAPI, generation: Generation, settings: Settings) -> None:
    """/v1/generate and /v1/generators."""

    @app.post(
        "/v1/generate",
        summary="A new image, token by token",
        description="Server-sent events: `start`, then `token` as they are made and a `preview` at each k that was asked for, then `done`, "
        "whose data decode takes as it is; or `error`, with a problem as its data. What cannot be done is a problem before any event. "
        "Hanging up stops the work at once.",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": GenerateDocument.model_json_schema()}},
            }
        },
        responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def generate(request: Request) -> Response:
        require_content_type(request, (JSON,))
        wanted = _parse(await read_body(request, settings))
        events = generation.generate(wanted, settings.request_timeout_seconds)
        first = await unless_gone(request, anext(events))
        return _EventStream(
            _told(first, events, f"image/{wanted.preview_format.lower()}"),
            media_type=EVENT_STREAM,
            headers=_HEADERS,
        )

    @app.get("/v1/generators", summary="What generates now")
    async def generators() -> GeneratorsDocument:
        return GeneratorsDocument(
            generators=[
                GeneratorDocument(
                    name=served.name,
                    family=served.family,
                    generator_fingerprint=served.fingerprint,
                    tokenizer=served.tokenizer.name,
                    fingerprint=served.tokenizer.fingerprint,
                    max_tokens=served.max_tokens,
                    classes=list(served.classes),
                )
                for served in generation.generators
            ]
        )


class _EventStream(StreamingResponse):
    body_iterator: AsyncGenerator[bytes, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(
            self.body_iterator
        ):  # a caller who left must not wait for the garbage collector to stop the work
            await super().__call__(scope, receive, send)


def _parse(body: bytes) -> GenerateRequest:
    try:
        return GenerateDocument.model_validate_json(body).wanted()
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}"
            for one in error.errors()
        )
        raise BadRequest(wrong[:300]) from error


async def _told(
    first: Event, events: AsyncGenerator[Event, None], media_type: str
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        try:
            yield _line(first, media_type)
            async for event in events:
                yield _line(event, media_type)
        except Exception as error:
            yield _framed("error", document_of(to_service_error(error)).model_dump())


def _line(event: Event, media_type: str) -> bytes:
    match event:
        case Started(generator, seed, k):
            tokenizer = generator.tokenizer
            start = {
                "generator": generator.name,
                "tokenizer": tokenizer.name,
                "fingerprint": tokenizer.fingerprint,
                "seed": seed,
                "k": k,
            }
            return _framed("start", start)
        case NewTokens(index, ids):
            return _framed("token", {"index": index, "ids": ids})
        case Preview(k, image):
            return _framed(
                "preview",
                {"k": k, "media_type": media_type, "image": base64.b64encode(image).decode()},
            )
        case Finished(generator, tokens, stages):
            document = {
                "tokenizer": generator.tokenizer.name,
                "fingerprint": tokens.fingerprint,
                "k": tokens.k,
                "tokens": tokens.ids.tolist(),
            }
            return _framed("done", {**document, "engine": generator.model.engine, "stages": stages})


def _framed(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
