"""The REST application: its routes, which translate between HTTP and service.core."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import cache

from fastapi import FastAPI, Response

from service.core.generation import Generation
from service.core.memory import MAX_DOCUMENT_BYTES
from service.core.refusals import Refusals
from service.core.tokenization import MAX_PREFIXES, Tokenization
from service.rest import decode, encode, generate, reference
from service.rest.batch import routes as batch
from service.rest.documents import TokenizersDocument
from service.rest.negotiation import JSON
from service.rest.openapi import ANY, TEXT, document, operation, schema
from service.rest.problems import add_error_handlers
from service.rest.requests import Bodies
from service.rest.routes import StrictRoute
from service.security.auth import Authenticator
from service.settings import Settings


def create_app(
    tokenization: Tokenization,
    generation: Generation,
    bodies: Bodies,
    refusals: Refusals,
    settings: Settings,
    authenticator: Authenticator,
    is_ready: Callable[[], bool],
    exposition: Callable[[], Awaitable[bytes]],
) -> FastAPI:
    """The application. is_ready: readiness for /readyz. exposition: returns the text of /metrics.

    Its web pages come from service/rest/pages.py.
    """
    app = FastAPI(
        title="ChannelTok Serving",
        version="1",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=reference.DOCUMENT,
    )
    app.openapi = cache(lambda: document(app))  # type: ignore[method-assign]
    app.router.route_class = StrictRoute
    add_error_handlers(app, refusals)
    reference.add_routes(app)
    encode.add_routes(app, tokenization, bodies, settings)
    decode.add_routes(app, tokenization, bodies, settings, authenticator)
    batch.add_routes(app, tokenization, bodies, settings, authenticator)
    generate.add_routes(app, generation, bodies, settings, authenticator)

    @app.get(
        "/v1/tokenizers",
        **operation(
            "listTokenizers",
            "tokens",
            "List the served tokenizers, and the limits of calls",
            "The default one is the first.",
            reply={JSON: schema(TokenizersDocument)},
        ),
    )
    async def tokenizers() -> TokenizersDocument:
        infos = [asdict(served.info()) for served in tokenization.tokenizers]
        limits = {
            "max_message_bytes": settings.max_message_bytes,
            "max_document_bytes": MAX_DOCUMENT_BYTES,
            "max_prefixes": MAX_PREFIXES,
            "max_batch_items": settings.max_batch_items,
        }
        return TokenizersDocument.model_validate({"tokenizers": infos, "limits": limits})

    @app.get(
        "/livez",
        **operation(
            "livez",
            "operation",
            "Liveness: the process responds",
            "Needs no token.",
            reply={"text/plain": TEXT},
            refusals=ANY,
            needs_token=False,
        ),
        response_class=Response,
    )
    async def livez() -> Response:
        return Response("alive\n", media_type="text/plain")

    @app.get(
        "/readyz",
        **operation(
            "readyz",
            "operation",
            "Readiness: every engine passed a recent test inference",
            "Needs no token. 503 while it is not ready.",
            reply={"text/plain": TEXT},
            other_replies={503: {"text/plain": TEXT}},
            refusals=ANY,
            needs_token=False,
        ),
        response_class=Response,
    )
    async def readyz() -> Response:
        ready = is_ready()
        return Response(
            "ready\n" if ready else "not ready\n", 200 if ready else 503, media_type="text/plain"
        )

    @app.get(
        "/metrics",
        **operation(
            "metrics",
            "operation",
            "Prometheus metrics",
            "In the text format of Prometheus.",
            reply={"text/plain": TEXT},
        ),
        response_class=Response,
    )
    async def metrics() -> Response:
        return Response(await exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
