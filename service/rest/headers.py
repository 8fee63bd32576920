"""Headers of replies: OpenAPI describes them, and pages of allowed origins may read them."""

from service.observability.request_context import REQUEST_ID

RETRY_AFTER = "Retry-After"
TIMING = "Server-Timing"
ENGINE = "ChannelTok-Engine"
VIEW = "ChannelTok-View"
ALLOW = "Allow"
AUTHENTICATE = "WWW-Authenticate"
ENCODING = "Accept-Encoding"

MEANINGS = {
    REQUEST_ID: "the caller's own id, or one that was made; the log names it",
    RETRY_AFTER: "whole seconds after which the same call may succeed",
    TIMING: "stages of the call, in milliseconds (W3C Server Timing)",
    ENGINE: "what computed the result, such as `openvino bf16`",
    VIEW: "what the tokenizer saw, in pixels: width and height of the whole image, then the part "
    "of it that was seen; a dictionary of RFC 8941",
    ALLOW: "the methods of this path",
    AUTHENTICATE: "`Bearer`",
    ENCODING: "`identity`: a body is sent as it is",
}
