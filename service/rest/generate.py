"""REST routes of generation: a JSON body in, server-sent events out.

An error before the first event is an ordinary problem response; a later one is the last event,
`error`, with the problem as its data.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from channeltok import NewTokens, Preview, Started
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError

from service.core.generation import Event, Finished, Generation
from service.errors import (
    BadK,
    BadPrompt,
    BadRequest,
    BadSampling,
    BadTokens,
    FingerprintMismatch,
    UnknownClass,
    UnknownGenerator,
)
from service.rest.documents import (
    GenerateDocument,
    GenerateDone,
    GenerateStart,
    GenerateToken,
    GeneratorsDocument,
    ImageDocument,
)
from service.rest.events import error_frame, event_stream, frame, preview_frame
from service.rest.negotiation import EVENT_STREAM, JSON, require_content_type
from service.rest.openapi import WORK, events, operation, schema
from service.rest.problems import Problem, invalid_request
from service.rest.requests import Bodies, cancel_on_disconnect, parse_object, read_tokens
from service.security.auth import Authenticator
from service.settings import Settings

_PARAMETERS = [field.alias or name for name, field in GenerateDocument.model_fields.items()]


def add_routes(
    app: FastAPI,
    generation: Generation,
    bodies: Bodies,
    settings: Settings,
    authenticator: Authenticator,
) -> None:
    """Add /v1/generate and /v1/generators."""

    @app.post(
        "/v1/generate",
        **operation(
            "generate",
            "generation",
            "Generate an image, token by token",
            "Server-sent events: `start`, then `token` as tokens are made and a `preview` at each "
            "requested k, then `done`, whose data decode takes as it is; or `error`, with a "
            "problem as its data. A request that cannot be served gets a problem before any "
            "event. Disconnecting stops the work at once.",
            body={JSON: schema(GenerateDocument)},
            reply={
                EVENT_STREAM: events(
                    start=GenerateStart,
                    token=GenerateToken,
                    preview=ImageDocument,
                    done=GenerateDone,
                    error=Problem,
                )
            },
            refusals=(
                *WORK,
                BadK,
                BadPrompt,
                BadSampling,
                BadTokens,
                UnknownClass,
                UnknownGenerator,
                FingerprintMismatch,
            ),
        ),
        response_class=Response,
    )
    async def generate(request: Request) -> Response:
        require_content_type(request, (JSON,))
        params = await generation.params(**_parse(await bodies.document(request)))
        events = generation.generate(params, settings.request_timeout_seconds)
        first = await cancel_on_disconnect(request, anext(events))
        frames = _sse_frames(first, events, f"image/{params.preview_format}")
        return event_stream(frames, authenticator)

    @app.get(
        "/v1/generators",
        **operation(
            "listGenerators",
            "generation",
            "List the served generators",
            "The default one is the first.",
            reply={JSON: schema(GeneratorsDocument)},
        ),
    )
    async def generators() -> GeneratorsDocument:
        infos = [asdict(served.info()) for served in generation.generators]
        return GeneratorsDocument.model_validate({"generators": infos})


def _parse(body: bytes) -> dict[str, Any]:
    """The fields of GenerateParams. Raises BadRequest, BadTokens."""
    fields = parse_object(body)
    for name in fields.keys() - _PARAMETERS:  # pydantic would describe each of 10,000
        raise BadRequest(f"{name[:100]!r} is no parameter; those are {', '.join(_PARAMETERS)}")
    try:
        document = GenerateDocument.model_validate(fields)
    except ValidationError as error:
        raise invalid_request(error) from error
    prefix = None if document.prefix is None else read_tokens(document.prefix, "prefix")[0]
    return {**document.model_dump(exclude={"prefix"}), "prefix": prefix}


async def _sse_frames(
    first: Event, events: AsyncGenerator[Event, None], media_type: str
) -> AsyncGenerator[bytes, None]:
    """Server-sent events for `first` and the rest of `events`. media_type: of the previews."""
    async with aclosing(events):
        try:
            yield _to_sse(first, media_type)
            async for event in events:
                yield _to_sse(event, media_type)
        except Exception as error:
            yield error_frame(error)


def _to_sse(event: Event, media_type: str) -> bytes:
    match event:
        case Started():
            return frame("start", asdict(event))
        case NewTokens(index, ids):
            return frame("token", {"index": index, "ids": ids})
        case Preview():
            return preview_frame(event, media_type)
        case Finished(tokenizer, tokens, engine, stages):
            data = {
                "tokenizer": tokenizer,
                "fingerprint": tokens.fingerprint,
                "k": tokens.k,
                "tokens": tokens.ids.tolist(),
                "engine": engine,
                "stages": stages,
            }
            return frame("done", data)
