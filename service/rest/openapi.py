"""The OpenAPI document, for people and for generators of clients.

A route says `@app.post(PATH, **operation(...))`. FastAPI adds its parameters; `document` adds what
all routes share.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import WithDefaultSchema

from service import errors
from service.errors import ServiceError
from service.observability.request_context import REQUEST_ID
from service.rest import documents, headers
from service.rest.batch import documents as batch_documents
from service.rest.problems import PROBLEM, Problem, to_problem

_REF = "#/components/schemas/{model}"
_TAGS = {
    "tokens": "Images to tokens and back.",
    "generation": "New images, token by token.",
    "operation": "For orchestrators and monitoring.",
}
ANY = (errors.BadRequest, errors.Forbidden, errors.TooLarge, errors.ServiceError)
"""Errors of every call."""
CALLER = (*ANY, errors.Unauthenticated)
"""Errors of every call that may need a token."""
WORK = (
    *CALLER,
    errors.NotAcceptable,
    errors.TooSlow,
    errors.UnsupportedFormat,
    errors.UnsupportedEncoding,
    errors.Overloaded,
    errors.RateLimited,
    errors.EngineUnavailable,
    errors.Stopping,
    errors.DeadlineExceeded,
)
"""Errors of every call with a body."""
_UNDESCRIBED = (errors.NoSuchPath, errors.MethodNotAllowed)  # of what no route serves

BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
"""A body of bytes."""
# Of parameters, which the service reads as text, to say itself what is wrong with them.
INTEGER = WithJsonSchema({"type": "integer", "minimum": 1})
STRING = WithJsonSchema({"type": "string"})
ASPECT = WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,7}:[0-9]{1,7}$"})
TEXT: dict[str, Any] = {"schema": {"type": "string"}}

_EXAMPLE_DETAILS = {
    "BAD_REQUEST": "'tokeniser' is no query parameter of /v1/encode; those are k, quality, fit, "
    "tokenizer",
    "UNAUTHENTICATED": "this service needs a valid bearer token",
    "FORBIDDEN": "pages of 'https://other.example' may not call this service; its operator can add "
    "an origin to CHANNELTOK_ALLOWED_ORIGINS",
    "TOO_SLOW": "the body did not arrive within 20 s",
    "BAD_IMAGE": "the image is damaged: its file ends too early",
    "BAD_K": "k is 300; it must be from 1 to 256",
    "BAD_TOKENS": "an id is 70000; ids are whole numbers from 0 to 65535",
    "BAD_PROMPT": "the prompt has 2000 bytes in UTF-8; generator 'car' takes at most 768",
    "BAD_SAMPLING": "temperature is 11; it must be from 0 to 10",
    "UNKNOWN_CLASS": "the generator has no class 'unicorn'",
    "UNSUPPORTED_FORMAT": "content type 'text/html' is not supported here; send one of image/jpeg, "
    "image/png, image/webp, image/x-rgb8, application/octet-stream, application/json",
    "UNSUPPORTED_ENCODING": "content encoding 'gzip' is not supported; send the body as it is, "
    "without Content-Encoding or with identity",
    "NOT_ACCEPTABLE": "Accept is 'text/html'; the offers are application/json, "
    "application/octet-stream, application/vnd.channeltok.tokens",
    "TOO_MANY_PIXELS": "the image has 100000000 pixels; at most 36000000 are allowed",
    "TOO_LARGE": "the body is larger than 16,777,216 bytes, the limit",
    "UNKNOWN_TOKENIZER": "no tokenizer 'other' is served",
    "UNKNOWN_GENERATOR": "no generator 'other' is served",
    "FINGERPRINT_MISMATCH": "no served tokenizer has the fingerprint 0123456789abcdef",
    "OVERLOADED": "the queue is full: try again",
    "RATE_LIMITED": "the caller has exceeded its rate of images",
    "DEADLINE_EXCEEDED": "the deadline passed before the result was there",
    "ENGINE_UNAVAILABLE": "the engine is restarting",
    "STOPPING": "this instance is stopping; another one may serve the call",
    "INTERNAL": "internal error; it was logged under request id 5f0c7d",
}
_SHARED = (
    Problem,
    documents.EncodeDocument,
    documents.TokensDocument,
    documents.DecodeDocument,
    documents.ImageDocument,
    documents.DecodeDone,
    documents.GenerateDocument,
    documents.GenerateStart,
    documents.GenerateToken,
    documents.GenerateDone,
    batch_documents.ImageItemDocument,
    batch_documents.TokensItemDocument,
    batch_documents.EncodedItemDocument,
    batch_documents.DecodedItemDocument,
    batch_documents.ItemProblemDocument,
    documents.TokenizersDocument,
    documents.GeneratorsDocument,
)
_DESCRIPTION = """\
Images to short, ordered token sequences and back.

The first k tokens of an image are a coarser image: any prefix can be decoded.
Errors are `application/problem+json` (RFC 9457); branch on their `code`.
"""


class _WithoutDefaults(GenerateJsonSchema):
    """Generators of TypeScript take a field with a default for one that is always there."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """A body in JSON."""
    return {"schema": {"$ref": _REF.format(model=model.__name__)}}


def events(**data: type[BaseModel]) -> dict[str, Any]:
    """A body of server-sent events: name of the event -> its data, in JSON.

    OpenAPI 3.1 has no word for events. Generators that know them read the schema as one event's
    data.
    """
    return {
        "schema": {
            "description": "server-sent events, each with JSON as its data: "
            + ", ".join(f"`{name}` {model.__name__}" for name, model in data.items()),
            "oneOf": [{"$ref": _REF.format(model=model.__name__)} for model in data.values()],
        }
    }


def lines(*models: type[BaseModel]) -> dict[str, Any]:
    """A body of lines, each of them JSON of one of the models."""
    each = [{"$ref": _REF.format(model=model.__name__)} for model in models]
    return {"schema": each[0] if len(each) == 1 else {"anyOf": each}}


def one_of(*values: str) -> WithJsonSchema:
    """The schema of a parameter that has one of these values."""
    return WithJsonSchema({"type": "string", "enum": list(values)})


def operation(
    name: str,
    tag: str,
    summary: str,
    description: str,
    *,
    reply: dict[str, Any],
    reply_headers: Iterable[str] = (),
    other_replies: dict[int, dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    refusals: Iterable[type[ServiceError]] = CALLER,
    needs_token: bool = True,
) -> dict[str, Any]:
    """Arguments of FastAPI's decorators. name: in generated clients. reply, body: media type ->
    what it holds, the default one first. other_replies: status -> such a reply. refusals: errors
    that a call can end with."""
    responses: dict[int | str, Any] = {
        200: {"description": "Success", "content": reply, "headers": _headers(reply_headers)}
    }
    for status, content in (other_replies or {}).items():
        responses[status] = {
            "description": HTTPStatus(status).phrase,
            "content": content,
            "headers": _headers(()),
        }
    by_status: dict[int, list[type[ServiceError]]] = {}
    for kind in refusals:
        by_status.setdefault(kind.http, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        responses[status] = _problems(kinds)
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": body}
    if not needs_token:
        extra["security"] = []
    return {
        "operation_id": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        "responses": responses,
        "openapi_extra": extra,
    }


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {
        name: {"$ref": f"#/components/headers/{name}"}
        for name in (_title(REQUEST_ID), *map(_title, names))
    }


def _title(name: str) -> str:
    return "X-Request-Id" if name == REQUEST_ID else name


def _problems(kinds: list[type[ServiceError]]) -> dict[str, Any]:
    names = []
    if any(kind.http in (429, 503) for kind in kinds):
        names.append(headers.RETRY_AFTER)
    if errors.Unauthenticated in kinds:
        names.append(headers.AUTHENTICATE)
    if errors.UnsupportedEncoding in kinds:
        names.append(headers.ENCODING)
    return {
        "description": "; ".join(f"{kind.code}: {kind.title}" for kind in kinds),
        "headers": _headers(names),
        "content": {
            PROBLEM: {
                **schema(Problem),
                "examples": {
                    kind.code: {"$ref": f"#/components/examples/{kind.code}"} for kind in kinds
                },
            }
        },
    }


def _example(kind: type[ServiceError]) -> dict[str, Any]:
    return to_problem(kind(_EXAMPLE_DETAILS[kind.code])).model_dump()


def document(app: FastAPI) -> dict[str, Any]:
    """The document of the application's routes."""
    result = get_openapi(
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        servers=[{"url": "/", "description": "this service"}],
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
    )
    for operation in (one for path in result["paths"].values() for one in path.values()):
        unprocessable = operation["responses"].get("422")
        if unprocessable is not None and PROBLEM not in unprocessable["content"]:
            del operation["responses"]["422"]  # FastAPI's own, which no reply has
    _, shared = models_json_schema(
        [(model, "validation") for model in _SHARED],
        ref_template=_REF,
        schema_generator=_WithoutDefaults,
    )
    components = result.setdefault("components", {})
    components["schemas"] = dict(sorted(shared["$defs"].items()))
    components["headers"] = {
        _title(name): {"description": meaning, "schema": {"type": "string"}}
        for name, meaning in headers.MEANINGS.items()
        if name != headers.ALLOW  # of OPTIONS and 405, which no operation has
    }
    components["examples"] = {
        kind.code: {"summary": kind.title, "value": _example(kind)}
        for kind in errors.KINDS
        if kind not in _UNDESCRIBED
    }
    components["securitySchemes"] = {
        "bearerToken": {
            "type": "http",
            "scheme": "bearer",
            "description": "needed where the service has a `bearer_token_file`",
        }
    }
    result["security"] = [{"bearerToken": []}, {}]
    return result
