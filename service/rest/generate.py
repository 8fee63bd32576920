"""REST routes of generation: a JSON body in, server-sent events out.

An error before the first event is an ordinary problem response; a later one is the last event,
`error`, with the problem as its data.
"""

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import orjson
from channeltok import NewTokens, Preview, Started
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from service.core.generation import Event, Finished, Generation
from service.core.rate_limit import caller
from service.errors import BadRequest, Unauthenticated, to_service_error
from service.rest.documents import GenerateDocument, GeneratorsDocument
from service.rest.negotiation import JSON, require_content_type
from service.rest.problems import invalid_request, to_problem
from service.rest.requests import Bodies, cancel_on_disconnect, parse_object, read_tokens
from service.security.auth import Authenticator
from service.settings import Settings

EVENT_STREAM = "text/event-stream"
_PARAMETERS = [field.alias or name for name, field in GenerateDocument.model_fields.items()]
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # or nginx would hold events back
}


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
        summary="Generate an image, token by token",
        description="Server-sent events: `start`, then `token` as tokens are made and a `preview` "
        "at each requested k, then `done`, whose data decode takes as it is; or `error`, with a "
        "problem as its data. A request that cannot be served gets a problem before any event. "
        "Disconnecting stops the work at once.",
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
        params = generation.params(**_parse(await bodies.document(request)))
        events = generation.generate(params, settings.request_timeout_seconds)
        first = await cancel_on_disconnect(request, anext(events))
        frames = _sse_frames(first, events, f"image/{params.preview_format}")
        return _EventStream(frames, authenticator)

    @app.get("/v1/generators", summary="List the served generators")
    async def generators() -> GeneratorsDocument:
        infos = [asdict(served.info()) for served in generation.generators]
        return GeneratorsDocument.model_validate({"generators": infos})


class _EventStream(StreamingResponse):
    """Closes its iterator as soon as the client disconnects or its token is removed, which stops
    the work at once."""

    body_iterator: AsyncGenerator[bytes, None]

    def __init__(self, frames: AsyncGenerator[bytes, None], authenticator: Authenticator) -> None:
        super().__init__(frames, media_type=EVENT_STREAM, headers=_HEADERS)
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):
            try:
                async with self._authenticator.while_accepted(caller.get(), scope["path"]):
                    await super().__call__(scope, receive, send)
            except Unauthenticated as error:
                await send({"type": "http.response.body", "body": _error_frame(error)})


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
            yield _error_frame(error)


def _to_sse(event: Event, media_type: str) -> bytes:
    match event:
        case Started():
            return _sse_frame("start", asdict(event))
        case NewTokens(index, ids):
            return _sse_frame("token", {"index": index, "ids": ids})
        case Preview(k, image):
            return _sse_frame(
                "preview",
                {"k": k, "media_type": media_type, "image": base64.b64encode(image).decode()},
            )
        case Finished(tokenizer, tokens, engine, stages):
            data = {
                "tokenizer": tokenizer,
                "fingerprint": tokens.fingerprint,
                "k": tokens.k,
                "tokens": tokens.ids.tolist(),
                "engine": engine,
                "stages": stages,
            }
            return _sse_frame("done", data)


def _error_frame(error: Exception) -> bytes:
    return _sse_frame("error", to_problem(to_service_error(error)).model_dump())


def _sse_frame(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
