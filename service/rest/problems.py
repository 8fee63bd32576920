"""Error responses: RFC 9457 problem+json for every error the REST API can return."""

import math
from http import HTTPStatus
from typing import Annotated

import orjson
from channeltok.errors import InvalidInput
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.core.refusals import Refusals
from service.errors import (
    BadRequest,
    MethodNotAllowed,
    NoSuchPath,
    ServiceError,
    Unauthenticated,
    UnsupportedEncoding,
    to_service_error,
)
from service.rest import headers

PROBLEM = "application/problem+json"


class Problem(BaseModel):
    """RFC 9457. `code` is stable: branch on it."""

    type: str = "about:blank"
    title: Annotated[str, Field(description="the same for all problems of a code")]
    status: Annotated[int, Field(description="of HTTP")]
    detail: Annotated[str, Field(description="what was wrong, and what is allowed")]
    code: Annotated[str, Field(description="stable, in capitals; later versions may add codes")]


def to_problem(error: ServiceError) -> Problem:
    """The problem document for an error."""
    return Problem(title=error.title, status=error.http, detail=error.detail, code=error.code)


def problem_response(error: ServiceError) -> Response:
    """The HTTP response for an error, with the headers that belong to it."""
    replies = {}
    if error.retry_after is not None:
        # Retry-After takes whole seconds.
        replies[headers.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthenticated):
        replies[headers.AUTHENTICATE] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        replies[headers.ENCODING] = "identity"
    return _response(to_problem(error), replies)


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
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _other_method(request, (error.headers or {}).get("Allow", "GET"))
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(NoSuchPath(_where_instead(request)))
    problem = Problem(
        title=HTTPStatus(error.status_code).phrase,
        status=error.status_code,
        detail=str(error.detail),
        code="BAD_REQUEST",
    )
    return _response(problem, dict(error.headers or {}))


def _other_method(request: Request, served: str) -> Response:
    """The answer to OPTIONS, or a problem. served: the methods of the route at this path."""
    methods = [method.strip() for method in served.split(",")]
    if "GET" in methods and "HEAD" not in methods:
        methods.append("HEAD")  # service/rest/request_line.py
    allow = ", ".join([*methods, "OPTIONS"])
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": allow})
    detail = f"{request.method[:20]} is not allowed here; the methods are {allow}"
    response = problem_response(MethodNotAllowed(detail))
    response.headers["Allow"] = allow
    return response


def _where_instead(request: Request) -> str:
    """What is wrong with a path. A redirect would name a wrong address behind a proxy."""
    path = request.url.path
    tidy = "/" + "/".join(filter(None, path.split("/")))
    served = {getattr(route, "path", None) for route in request.app.routes}
    hint = f"the path is {tidy}" if tidy in served else "see /docs"
    return f"there is nothing at {path[:100]}; {hint}"


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(invalid_request(error))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # never read: the client disconnected while sending


def _response(problem: Problem, headers: dict[str, str]) -> Response:
    content = orjson.dumps(problem.model_dump())
    return Response(content, problem.status, headers, media_type=PROBLEM)
