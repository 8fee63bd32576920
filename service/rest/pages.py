"""Web pages of the service itself: static files, read once, under a strict policy.

A page may fetch from this service and nowhere else, runs only its own scripts, and cannot be framed
(docs/decisions/0053-playground.md).
"""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

WEB = Path(__file__).parent.parent / "web"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
_PACKED = {".webp"}  # gzip would not make these smaller
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Browsers ask each time, and get 304: file names say nothing of their version.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


def add_playground(app: FastAPI, grpc_port: Callable[[], int]) -> frozenset[str]:
    """Serve the playground at /. grpc_port: for the examples that it shows.

    Returns all paths that it serves.
    """

    async def addresses(request: Request) -> Response:
        return JSONResponse({"grpc_port": grpc_port()}, headers=_HEADERS)

    path = "/playground/addresses.json"
    app.add_route(path, addresses, include_in_schema=False)
    return add_folder(app, "playground", "/") | {path}


def add_folder(app: FastAPI, folder: str, index: str = "") -> frozenset[str]:
    """Serve the files of service/web/FOLDER at /FOLDER/, but its index.html at the path `index`.

    Returns all paths that it serves. index.html names files relative to `index`, so that a proxy
    may serve all below another path.
    """
    paths = set()
    for file in sorted((WEB / folder).rglob("*")):
        if file.suffix in _TYPES:
            name = file.relative_to(WEB).as_posix()
            path = index if name == f"{folder}/index.html" else f"/{name}"
            app.add_route(path, _File(file).answer, include_in_schema=False)
            paths.add(path)
    return frozenset(paths)


class _File:
    """One static file, as it is and compressed."""

    def __init__(self, file: Path) -> None:
        self._plain = file.read_bytes()
        self._packed = None if file.suffix in _PACKED else gzip.compress(self._plain, mtime=0)
        # Weak: the same tag stands for both codings.
        self._tag = f'W/"{hashlib.sha256(self._plain).hexdigest()[:16]}"'
        self._headers = {**_HEADERS, "Content-Type": _TYPES[file.suffix], "ETag": self._tag}

    async def answer(self, request: Request) -> Response:
        """The file, or 304 where the browser has it."""
        known = {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}
        if known & {self._tag, "*"}:
            return Response(status_code=304, headers=self._headers)
        if self._packed is not None and _takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(self._packed, headers={**self._headers, "Content-Encoding": "gzip"})
        return Response(self._plain, headers=self._headers)


def _takes_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
