"""Problem responses for every kind of exception that a route can raise."""

from collections.abc import Callable

import httpx
import pytest
from channeltok.errors import InvalidInput
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from structlog.testing import capture_logs

from service.core.refusals import Refusals
from service.errors import BadK, Overloaded, Unauthenticated
from service.rest.problems import PROBLEM, add_error_handlers


async def response_to(error: Callable[[], Exception], raised: bool = False) -> httpx.Response:
    """raised: let what the application raises beside its response reach the test."""
    app = FastAPI()
    add_error_handlers(app, Refusals())

    @app.get("/")
    async def route(number: int = 0) -> None:
        raise error()

    transport = httpx.ASGITransport(app, raise_app_exceptions=raised)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/")


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (lambda: BadK("k is 0"), 422, "BAD_K", {}),
        (lambda: InvalidInput("BAD_K", "k is -1"), 422, "BAD_K", {}),
        (lambda: Overloaded("full", 0.2), 429, "OVERLOADED", {"retry-after": "1"}),
        (lambda: Overloaded("full", 1.2), 429, "OVERLOADED", {"retry-after": "2"}),
        (lambda: Unauthenticated("who"), 401, "UNAUTHENTICATED", {"www-authenticate": "Bearer"}),
        (lambda: HTTPException(405, headers={"allow": "GET"}), 405, "METHOD_NOT_ALLOWED", {}),
        (lambda: HTTPException(404), 404, "NO_SUCH_PATH", {}),
        (lambda: HTTPException(418), 418, "BAD_REQUEST", {}),
        (lambda: KeyError("a secret"), 500, "INTERNAL", {}),
    ],
)
async def test_every_error_is_a_problem_response(
    error: Callable[[], Exception], status: int, code: str, headers: dict[str, str]
) -> None:
    with capture_logs():
        response = await response_to(error)
    problem = response.json()
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, "about:blank")
    assert headers.items() <= dict(response.headers).items()
    assert "secret" not in response.text


@pytest.mark.parametrize("error", [BadK("k is 0"), InvalidInput("BAD_K", "k is -1")])
async def test_an_expected_error_is_not_raised_again(error: Exception) -> None:
    """The HTTP server would log it and close the connection."""
    assert (await response_to(lambda: error, raised=True)).status_code == 422
