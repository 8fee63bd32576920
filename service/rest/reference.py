"""Swagger UI at /docs and Redoc at /redoc: their files come with a wheel, so no network is needed.

They are open to everyone, as the OpenAPI document is: it is the same for every service, and a
browser has no token to send before its user can type one.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import fastapi_offline
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse

DOCUMENT = "/openapi.json"
_STATIC = Path(fastapi_offline.__file__).parent / "static"
_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
"""
# Tokens of Authorize stay in the memory of the page.
_SWAGGER_UI = f"""{_HEAD}<title>ChannelTok: API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
"""
_SWAGGER_UI_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  validatorUrl: null,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
});
"""
# Redoc's footer has a logo of its vendor's host.
_REDOC = f"""{_HEAD}<title>ChannelTok: API reference</title>
<link rel="stylesheet" href="redoc/page.css">
<div id="redoc"></div>
<script src="redoc/redoc.standalone.js"></script>
<script src="redoc/start.js"></script>
"""
_REDOC_START = 'Redoc.init("openapi.json", {}, document.getElementById("redoc"));\n'
_REDOC_STYLE = 'body { margin: 0; }\nimg[src^="https:"] { display: none; }\n'


class _File(NamedTuple):
    content: str | Path
    media_type: str


_JS, _CSS, _HTML = "text/javascript", "text/css", "text/html"
_FILES = {
    "/docs": _File(_SWAGGER_UI, _HTML),
    "/docs/start.js": _File(_SWAGGER_UI_START, _JS),
    "/docs/swagger-ui.css": _File(_STATIC / "swagger-ui.css", _CSS),
    "/docs/swagger-ui-bundle.js": _File(_STATIC / "swagger-ui-bundle.js", _JS),
    "/redoc": _File(_REDOC, _HTML),
    "/redoc/start.js": _File(_REDOC_START, _JS),
    "/redoc/page.css": _File(_REDOC_STYLE, _CSS),
    "/redoc/redoc.standalone.js": _File(_STATIC / "redoc.standalone.js", _JS),
}
PATHS = (DOCUMENT, *_FILES)
"""Paths that need no token."""
# Both libraries write styles into the page; Redoc searches in a worker that it makes of a blob.
_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_routes(app: FastAPI) -> None:
    """Add /docs and /redoc, and the files that they load."""
    for path, file in _FILES.items():
        app.add_api_route(path, _answer_with(file), include_in_schema=False)


def _answer_with(file: _File) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        if isinstance(file.content, Path):
            return FileResponse(file.content, media_type=file.media_type, headers=_HEADERS)
        return Response(file.content, media_type=file.media_type, headers=_HEADERS)

    return answer
