"""Server-sent events: their text, and the response of them."""

import base64
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from channeltok import Preview

from service.errors import to_service_error
from service.rest.negotiation import EVENT_STREAM
from service.rest.problems import to_problem
from service.rest.streaming import GuardedStream
from service.security.auth import Authenticator


def event_stream(
    frames: AsyncGenerator[bytes, None], authenticator: Authenticator
) -> GuardedStream:
    """The response that sends `frames`."""
    return GuardedStream(frames, EVENT_STREAM, authenticator, error_frame)


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
