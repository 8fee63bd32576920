"""Server-sent events: their text, and the response that streams them."""

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from channeltok import Preview
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.core.rate_limit import caller
from service.errors import Unauthenticated, to_service_error
from service.rest.negotiation import EVENT_STREAM
from service.rest.problems import to_problem
from service.security.auth import Authenticator

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # or nginx would hold events back
}


class EventStream(StreamingResponse):
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
                await send({"type": "http.response.body", "body": error_frame(error)})


def frame(name: str, data: dict[str, Any]) -> bytes:
    """An event. data: becomes JSON."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))


def preview_frame(preview: Preview, media_type: str) -> bytes:
    """The event `preview`. media_type: of its image."""
    image = base64.b64encode(preview.image).decode()
    return frame("preview", {"k": preview.k, "media_type": media_type, "image": image})


def error_frame(error: Exception) -> bytes:
    """The event `error`, the last one of a stream that fails."""
    return frame("error", to_problem(to_service_error(error)).model_dump())
