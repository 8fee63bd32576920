"""Replies to decode at several k: server-sent events, or the parts of a multipart body."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from channeltok import Preview
from fastapi import Request, Response

from service.core.memory import MemoryBudget
from service.core.progressive import DecodeEvent, DecodeEvents, DecodeFinished
from service.rest.events import error_frame, frame, preview_frame
from service.rest.negotiation import EVENT_STREAM, MULTIPART
from service.rest.requests import cancel_on_disconnect
from service.rest.results import result_headers
from service.rest.streaming import GuardedStream
from service.security.auth import Authenticator

K_HEADER = "ChannelTok-K"


async def events_reply(
    request: Request,
    events: DecodeEvents,
    media_type: str,
    authenticator: Authenticator,
    memory: MemoryBudget,
) -> Response:
    """A `preview` for each k, then `done`. media_type: of the images.

    Raises what comes before the first event.
    """
    try:
        first = await cancel_on_disconnect(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    frames = _frames(first, events, media_type)
    return GuardedStream(frames, EVENT_STREAM, authenticator, error_frame, memory, events)


async def _frames(
    first: DecodeEvent, events: DecodeEvents, media_type: str
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        try:
            yield _frame(first, media_type)
            async for event in events:
                yield _frame(event, media_type)
        except Exception as error:
            yield error_frame(error)


def _frame(event: DecodeEvent, media_type: str) -> bytes:
    match event:
        case Preview():
            return preview_frame(event, media_type)
        case DecodeFinished(tokenizer, stages, engine):
            data = {
                "tokenizer": tokenizer.name,
                "fingerprint": tokenizer.fingerprint,
                "engine": engine,
                "stages": stages,
            }
            return frame("done", data)


async def multipart_reply(request: Request, events: DecodeEvents, media_type: str) -> Response:
    """All images as one body, with a part for each k. media_type: of the images."""
    return await cancel_on_disconnect(request, _multipart(events, media_type))


async def _multipart(events: DecodeEvents, media_type: str) -> Response:
    boundary = secrets.token_hex(16)
    body: list[bytes] = []
    headers: dict[str, str] = {}
    async with aclosing(events):
        async for event in events:
            match event:
                case Preview(k, image):
                    head = (
                        f"--{boundary}\r\nContent-Type: {media_type}\r\n"
                        f"Content-Length: {len(image)}\r\n{K_HEADER}: {k}\r\n\r\n"
                    )
                    body += [head.encode(), image, b"\r\n"]
                case DecodeFinished():
                    headers = result_headers(event.stages, event.engine)
    body.append(f"--{boundary}--\r\n".encode())
    return Response(
        b"".join(body), media_type=f'{MULTIPART}; boundary="{boundary}"', headers=headers
    )
