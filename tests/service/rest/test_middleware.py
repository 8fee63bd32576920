from typing import Any

import pytest
import structlog
from starlette.types import Receive, Scope, Send

from service.rest.middleware import RequestMiddleware


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
