"""The request line, where it is not METHOD /path: HEAD, absolute targets, `*`, other versions."""

import re
from urllib.parse import unquote

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import BadRequest
from service.rest.problems import problem_response

# Scheme, host and path of an absolute target, as proxies send it. `user@` is not allowed.
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/.*)?", re.IGNORECASE)
_EVERYWHERE = "GET, HEAD, POST, OPTIONS"


class RequestLineMiddleware:
    """Lets the application see paths and GET only; the HTTP server drops the body of a HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["http_version"].startswith("1."):
            error = BadRequest("this port speaks HTTP/1.1; gRPC has a port of its own")
            answer = problem_response(error)
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        if not scope["raw_path"].startswith(b"/"):
            if scope["raw_path"] == b"*" and scope["method"] == "OPTIONS":
                answer = Response(status_code=204, headers={"Allow": _EVERYWHERE})
                await answer(scope, receive, send)
                return
            absolute = _ABSOLUTE.fullmatch(scope["raw_path"])
            if absolute is None:
                error = BadRequest("the target of a request is a path, or http:// and a host")
                await problem_response(error)(scope, receive, send)
                return
            scope = _at_host(scope, absolute[1], absolute[2] or b"/")
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def _at_host(scope: Scope, host: bytes, path: bytes) -> Scope:
    """The same request with a path as its target. The host of a target overrides the header's."""
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {
        **scope,
        "raw_path": path,
        "path": unquote(path.decode("ascii")),
        "headers": [(b"host", host), *others],
    }
