"""Error responses: RFC 9457 problem+json for every error the REST API can return."""

import math
from http import HTTPStatus

import orjson
from channeltok.errors import InvalidInput
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.core.refusals import Refusals
from service.errors import BadRequest, ServiceError, Unauthenticated, to_service_error

PROBLEM = "application/problem+json"


class Problem(BaseModel):
    """RFC 9457. `code` is stable: branch on it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str


def to_problem(error: ServiceError) -> Problem:
    """The problem document for an error."""
    return Problem(title=error.title, status=error.http, detail=error.detail, code=error.code)


def problem_response(error: ServiceError) -> Response:
    """The HTTP response for an error, with Retry-After or WWW-Authenticate where they apply."""
    headers = {}
    if error.retry_after is not None:
        # Retry-After takes whole seconds.
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return _response(to_problem(error), headers)


def invalid_request(error: RequestValidationError | ValidationError) -> BadRequest:
    """Bad Request that names each invalid field and the reason."""
    reasons = (
        f"{'.'.join(map(str, item['loc'])) or 'the body'}: {item['msg']}" for item in error.errors()
    )
    return BadRequest("; ".join(reasons))


def add_error_handlers(app: FastAPI, refusals: Refusals) -> None:
    """Make every exception an endpoint can raise a problem response."""

    async def _on_error(request: Request, error: Exception) -> Response:
        error = to_service_error(error)
        await refusals.hold(error)
        return problem_response(error)

    app.add_exception_handler(Exception, _on_error)
    app.add_exception_handler(ServiceError, _on_error)
    app.add_exception_handler(InvalidInput, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, detail = {
        404: ("NO_SUCH_PATH", f"there is nothing at {request.url.path[:100]}; see /docs"),
        405: ("METHOD_NOT_ALLOWED", f"{request.method} is not allowed here; see /docs"),
    }.get(error.status_code, ("BAD_REQUEST", str(error.detail)))
    problem = Problem(
        title=HTTPStatus(error.status_code).phrase,
        status=error.status_code,
        detail=detail,
        code=code,
    )
    return _response(problem, dict(error.headers or {}))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(invalid_request(error))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # never read: the client disconnected while sending


def _response(problem: Problem, headers: dict[str, str]) -> Response:
    content = orjson.dumps(problem.model_dump())
    return Response(content, problem.status, headers, media_type=PROBLEM)
