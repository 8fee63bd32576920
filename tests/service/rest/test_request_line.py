"""RequestLineMiddleware turns every target into a path, and HEAD into GET."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from service.rest.request_line import RequestLineMiddleware


async def ask(method: str, target: bytes) -> tuple[Scope | None, list[Any]]:
    """What the application is asked, None where it is not, and what was sent without it."""
    seen: list[Scope] = []
    sent: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    path, _, query = target.partition(b"?")
    scope = {
        "type": "http",
        "method": method,
        "http_version": "1.1",
        "path": path.decode(),
        "raw_path": path,
        "query_string": query,
        "headers": [(b"host", b"header"), (b"accept", b"*/*")],
    }
    await RequestLineMiddleware(app)(scope, receive, send)
    return (seen[0] if seen else None), sent


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/v1/encode?k=1", "/v1/encode", b"header"),
        (b"http://example/v1/encode?k=1", "/v1/encode", b"example"),
        (b"HTTPS://example:8080/a%20b?k=1", "/a b", b"example:8080"),
        (b"http://[::1]:8080?k=1", "/", b"[::1]:8080"),
    ],
)
async def test_request_line_middleware_reads_targets(target: bytes, path: str, host: bytes) -> None:
    scope, _ = await ask("POST", target)
    assert scope is not None
    assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", path, b"k=1")
    assert dict(scope["headers"]) == {b"host": host, b"accept": b"*/*"}


@pytest.mark.parametrize(
    "target", [b"*", b"example:443", b"livez", b"ftp://example/", b"http://a@example/", b"http://"]
)
async def test_request_line_middleware_refuses_what_is_no_path(target: bytes) -> None:
    scope, sent = await ask("GET", target)
    assert scope is None
    assert sent[0]["status"] == 400


async def test_request_line_middleware_reads_head_as_get_and_answers_for_all_paths() -> None:
    scope, _ = await ask("HEAD", b"/livez")
    assert scope is not None
    assert scope["method"] == "GET"
    scope, sent = await ask("OPTIONS", b"*")
    assert scope is None
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"allow"]) == (
        204,
        b"GET, HEAD, POST, OPTIONS",
    )
