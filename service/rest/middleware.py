"""ASGI middleware of the REST server: authentication before a request reaches its route."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.rate_limit import caller
from service.errors import Unauthenticated
from service.rest.problems import problem_response
from service.security.auth import Authenticator

_OPEN_PATHS = ("/livez", "/readyz")


class AuthMiddleware:
    """Answers unauthenticated requests with 401 and sets `caller` for the others.

    Health checks are open to everyone.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
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
