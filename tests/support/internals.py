"""Finds internals in an error: paths, modules, classes, addresses, text from an engine."""

import re

_INTERNALS = re.compile(
    r"/(?:tmp|home|root|usr|opt|work|app|proc|dev)/|\.py\b|site-packages|Traceback|File \""
    r"|0x[0-9a-f]{6,}|<class|NoneType|\w(?:Error|Exception|Group)\b"
    r"|\b(?:grpc|google|asyncio|uvicorn|starlette|fastapi|pydantic|numpy|PIL|orjson)\b[._]"
    r"|\bsimplejpeg\b[._]"
    r"|triton|python_backend|\bstub\b|onnx|openvino|tensorrt|instance|shared memory|\berrno\b"
    r"|127\.0\.0\.1|localhost",
    re.IGNORECASE,
)
_PUBLIC = "type.googleapis.com/google.rpc."  # how gRPC's standard error details begin


def internals(text: str) -> str | None:
    """The first thing in `text` that no caller should read."""
    match = _INTERNALS.search(text.replace(_PUBLIC, ""))
    return match[0] if match else None
