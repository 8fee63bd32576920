"""Content negotiation: the Content-Type a request may have, the Accept type a response gets."""

from fastapi import Request

from service.errors import NotAcceptable, UnsupportedFormat

OCTETS = "application/octet-stream"
TOKEN_BYTES = "application/vnd.channeltok.tokens"
JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"  # what curl --data-binary sends by default


def negotiate(accept: str, offers: tuple[str, ...]) -> str:
    """The offer that the Accept header prefers (RFC 9110), the first of equals.

    Raises NotAcceptable where it accepts none.
    """
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        q = next((item[2:] for item in parameters if item.startswith("q=")), "1")
        try:
            weights[media_range] = float(q)
        except ValueError:
            weights[media_range] = 0.0

    def weight(offer: str) -> float:
        ranges = (offer, offer.partition("/")[0] + "/*", "*/*")  # the most specific first
        return next((weights[name] for name in ranges if name in weights), 0.0)

    best = max(offers, key=weight)
    if weight(best) == 0:
        raise NotAcceptable(f"Accept is {accept[:100]!r}; the offers are {', '.join(offers)}")
    return best


def require_content_type(request: Request, allowed: tuple[str, ...]) -> str:
    """The request's media type; the first of `allowed` where it names none or curl's default.

    Raises UnsupportedFormat.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in ("", _FORM):
        return allowed[0]
    if content_type not in allowed:
        raise UnsupportedFormat(
            f"content type {content_type[:60]!r} is not supported here; "
            f"send one of {', '.join(allowed)}"
        )
    return content_type
