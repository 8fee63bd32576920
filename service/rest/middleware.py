"""ASGI middleware of the REST server: request id, access log, browsers, authentication."""

import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.rate_limit import caller
from service.errors import Forbidden, Unauthenticated
from service.observability.request_context import REQUEST_ID, begin_request, log_access
from service.rest import headers, reference
from service.rest.problems import problem_response
from service.rest.request_line import RequestLineMiddleware
from service.security.auth import Authenticator
from service.security.browsers import BrowserPolicy

_OPEN_PATHS = {"/livez", "/readyz", *reference.PATHS}
_POLLED_PATHS = {"/livez", "/readyz", "/metrics"}  # too frequent for the access log


def guarded(
    app: ASGIApp,
    authenticator: Authenticator,
    policy: BrowserPolicy,
    open_paths: Collection[str] = (),
) -> ASGIApp:
    """The application behind all middleware. open_paths: need no token, beside health checks."""
    app = AuthMiddleware(app, authenticator, open_paths)
    if policy.origins:
        # Outside of authentication: a browser sends no token before it is allowed to.
        app = CORSMiddleware(
            app,
            allow_origins=policy.origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=tuple(headers.MEANINGS),
        )
    return RequestMiddleware(RequestLineMiddleware(BrowserMiddleware(app, policy)))


class BrowserMiddleware:
    """Answers with 403 what pages ask for that may not call the service."""

    def __init__(self, app: ASGIApp, policy: BrowserPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._policy.check(scope["method"], Headers(scope=scope))
        except Forbidden as error:
            await problem_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class AuthMiddleware:
    """Answers unauthenticated requests with 401 and sets `caller` for the others.

    Health checks and the description of the API are open to everyone, and so are `open_paths`.
    """

    def __init__(
        self, app: ASGIApp, authenticator: Authenticator, open_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._open_paths = frozenset((*_OPEN_PATHS, *open_paths))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            authorization = [
                value.decode("latin-1")
                for name, value in scope["headers"]
                if name == b"authorization"
            ]
            address = scope["client"][0] if scope["client"] else ""
            try:
                name = self._authenticator.authenticate(authorization, scope["path"], address)
            except Unauthenticated as error:
                await problem_response(error)(scope, receive, send)
                return
            caller.set(name)
        await self._app(scope, receive, send)


class RequestMiddleware:
    """Binds a request id, returns it in `x-request-id` and writes the access line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = begin_request(Headers(scope=scope))
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # Starlette raises again what it has answered and we have logged; uvicorn would log
            # it a second time.
            if status != 500:
                raise
        finally:
            if scope["path"] not in _POLLED_PATHS:
                log_access("rest", f"{scope['method']} {scope['path'][:100]}", status, started)
