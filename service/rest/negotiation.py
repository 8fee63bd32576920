"""Content negotiation: Content-Type and -Encoding of a request, the Accept type of a response."""

import re

from fastapi import Request

from imaging import FORMATS, Pixels
from service.errors import BadRequest, NotAcceptable, UnsupportedEncoding, UnsupportedFormat

RGB8 = "image/x-rgb8"  # pixels without a file format, of this `width` and `height`
OCTETS = "application/octet-stream"
TOKEN_BYTES = "application/vnd.channeltok.tokens"
JSON = "application/json"
EVENT_STREAM = "text/event-stream"
MULTIPART = "multipart/mixed"
MULTIPART_FORM = "multipart/form-data"
NDJSON = "application/x-ndjson"
JSON_LINES = "application/jsonl"
FORMATS_BY_NAME = {media_type.removeprefix("image/"): media_type for media_type in FORMATS}
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")  # the default first
_FORM = "application/x-www-form-urlencoded"  # what curl --data-binary sends by default
_SIDE = re.compile(r"[0-9]{1,7}")
_Q = re.compile(r"q=(0(\.[0-9]{0,3})?|1(\.0{0,3})?)")


def accept_of(request: Request) -> str:
    """The Accept headers of a request as one; `*/*` where it has none."""
    return ", ".join(request.headers.getlist("accept") or ["*/*"])


def negotiate(accept: str, offers: tuple[str, ...]) -> str:
    """The offer that the Accept header prefers (RFC 9110), the first of equals.

    Raises NotAcceptable where it accepts none.
    """
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        q = next((item for item in parameters if item.startswith("q=")), "q=1")
        weights[media_range] = float(q[2:]) if _Q.fullmatch(q) else 0.0

    def weight(offer: str) -> float:
        ranges = (offer, offer.partition("/")[0] + "/*", "*/*")  # the most specific first
        return next((weights[name] for name in ranges if name in weights), 0.0)

    best = max(offers, key=weight)
    if weight(best) == 0:
        raise NotAcceptable(f"Accept is {accept[:100]!r}; the offers are {', '.join(offers)}")
    return best


def image_types(format: str | None) -> tuple[str, ...]:
    """The media types that a reply may have, the preferred one first: all, or that of `format`.

    Raises UnsupportedFormat.
    """
    if format is None:
        return _IMAGE_TYPES
    if format not in FORMATS_BY_NAME:
        raise UnsupportedFormat(
            f"format is {format[:40]!r}; it is one of {', '.join(FORMATS_BY_NAME)}"
        )
    return (FORMATS_BY_NAME[format],)


def require_content_type(request: Request, allowed: tuple[str, ...]) -> str:
    """The request's media type; the first of `allowed` where it names none or curl's default.

    Any image type stands for all that are allowed: which one it is, the bytes say. Raises
    UnsupportedFormat, UnsupportedEncoding.
    """
    _require_identity(request)
    content_type = media_type(request.headers.get("content-type", ""))
    if content_type in ("", _FORM):
        return allowed[0]
    if content_type in allowed:
        return content_type
    if content_type.startswith("image/") and any(name.startswith("image/") for name in allowed):
        return allowed[0]
    raise UnsupportedFormat(
        f"content type {content_type[:60]!r} is not supported here; "
        f"send one of {', '.join(allowed)}"
    )


def media_type(content_type: str) -> str:
    """The type in a Content-Type header, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def image_in(content_type: str, body: bytes) -> bytes | Pixels:
    """The pixels in a body of image/x-rgb8; another body is a file, as it is.

    content_type: the header. Raises BadRequest where it does not say the size of the pixels.
    """
    if media_type(content_type) != RGB8:
        return body
    sides: dict[str, int] = {}
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name in sides or name not in ("width", "height") or not _SIDE.fullmatch(value):
            break
        sides[name] = int(value)
    else:
        if len(sides) == 2:
            return Pixels(sides["width"], sides["height"], body)
    raise BadRequest(
        f"Content-Type is {content_type[:100]!r}; pixels are sent as {RGB8}; width=128; height=128"
    )


def _require_identity(request: Request) -> None:
    """Nothing is unpacked: a small body could become a large one, and images are packed already."""
    for value in request.headers.getlist("content-encoding"):
        for coding in value.split(","):
            if coding.strip().lower() not in ("", "identity"):
                raise UnsupportedEncoding(
                    f"content encoding {coding.strip()[:40]!r} is not supported; send the body "
                    "as it is, without Content-Encoding or with identity"
                )
