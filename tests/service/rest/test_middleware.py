from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.rest import headers
from service.rest.middleware import RequestMiddleware, guarded
from service.security.auth import Authenticator
from service.security.bearer_tokens import BearerTokens
from service.security.browsers import BrowserPolicy

TOKEN = "0123456789abcdef"
PAGE = "https://app.example"


async def call(
    path: str, status: int = 200, error: Exception | None = None, request_id: str | None = None
) -> tuple[list[Any], list[Any]]:
    """One request to an app that answers with `status`, then raises `error`: messages and log."""
    sent: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        if error is not None:
            raise error

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if request_id is None else [(b"x-request-id", request_id.encode())]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    with structlog.testing.capture_logs() as lines:
        await RequestMiddleware(app)(scope, receive, send)
    return sent, lines


async def test_request_middleware_returns_the_request_id_and_logs_the_access() -> None:
    (start,), (line,) = await call("/v1/tokenizers", 404, request_id="mine")
    assert start["headers"] == [(b"x-request-id", b"mine")]
    assert (line["event"], line["protocol"], line["call"], line["code"]) == (
        "access",
        "rest",
        "GET /v1/tokenizers",
        404,
    )


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_request_middleware_does_not_log_polled_paths(path: str) -> None:
    (start,), lines = await call(path)
    assert len(start["headers"]) == 1
    assert lines == []


async def test_request_middleware_swallows_an_error_that_was_answered_with_500() -> None:
    """Starlette raises it again after answering; uvicorn would log it a second time."""
    _, (line,) = await call("/", 500, ZeroDivisionError())
    assert line["code"] == 500
    with pytest.raises(ZeroDivisionError):
        await call("/", 200, ZeroDivisionError())


@pytest.fixture
def browser(tmp_path: Path) -> httpx.AsyncClient:
    """What a page of PAGE, which may call, sends to a service with tokens; it streams events."""

    async def events() -> Any:
        yield b"event: done\ndata: {}\n\n"

    (file := tmp_path / "tokens").write_text(TOKEN)
    app = StreamingResponse(events(), media_type="text/event-stream")
    policy = BrowserPolicy((PAGE,), ())
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(guarded(app, Authenticator(BearerTokens(file)), policy)),
        base_url="http://localhost",
        headers={"Origin": PAGE, "Sec-Fetch-Site": "cross-site"},
    )


def shared(reply: httpx.Response) -> set[str]:
    """Lower-case headers that the page may read; none where it may not read the reply."""
    if reply.headers.get("access-control-allow-origin") != PAGE:
        return set()
    assert "origin" in reply.headers["vary"].lower()
    return set(reply.headers["access-control-expose-headers"].lower().split(", "))


async def test_guarded_answers_a_preflight_before_it_asks_for_a_token(
    browser: httpx.AsyncClient,
) -> None:
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    reply = await browser.options("/v1/generate", headers=asks)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert {"authorization", "content-type"} <= set(
        reply.headers["access-control-allow-headers"].replace(" ", "").split(",")
    )
    asks["Origin"] = "https://other.example"
    refused = await browser.options("/v1/generate", headers=asks)
    assert refused.status_code == 403
    assert not [name for name in refused.headers if name.startswith("access-control")]


async def test_guarded_lets_pages_read_all_our_headers_of_streams_and_errors(
    browser: httpx.AsyncClient,
) -> None:
    ours = {name.lower() for name in headers.MEANINGS}
    assert {"retry-after", "x-request-id", "server-timing", "channeltok-engine"} <= ours
    refused = await browser.post("/v1/generate")
    assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
    assert ours <= shared(refused)
    stream = await browser.post("/v1/generate", headers={"Authorization": f"Bearer {TOKEN}"})
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert ours <= shared(stream)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/docs/start.js", "/livez"])
async def test_guarded_shows_the_description_of_the_api_without_a_token(
    browser: httpx.AsyncClient, path: str
) -> None:
    assert (await browser.get(path)).status_code == 200
    for other in (f"{path}/", f"{path}/../v1/encode", f"/x{path}"):
        assert (await browser.get(httpx.URL(f"http://localhost{other}"))).status_code == 401
