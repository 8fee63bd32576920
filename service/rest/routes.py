"""Routes that refuse query parameters they do not know, which FastAPI ignores."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.errors import BadRequest

_API = "/v1/"  # elsewhere, at /livez and /metrics, probes may send what they like


class StrictRoute(APIRoute):
    """A misspelt parameter would be served with its default, which looks like a right answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if not self.path.startswith(_API):
            return handle
        known = [parameter.alias for parameter in self.dependant.query_params]

        async def strict(request: Request) -> Response:
            if request.scope["query_string"]:
                _check(request, known)
            return await handle(request)

        return strict


def _check(request: Request, known: list[str]) -> None:
    """Raises BadRequest."""
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            raise BadRequest(
                f"{name[:100]!r} is no query parameter of {request.url.path}; "
                f"{'those are ' + ', '.join(known) if known else 'it has none'}"
            )
        if times > 1:
            raise BadRequest(f"{name} is given {times} times; once is allowed")
