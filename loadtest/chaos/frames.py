"""HTTP/2 frames by hand, for what no gRPC client would send."""

import struct
from collections.abc import Sequence

DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, stream: int, body: bytes, flags: int = 0) -> bytes:
    """One frame of a stream; stream 0 is the connection."""
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def call_headers(path: bytes, metadata: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """The body of the HEADERS of a gRPC call. Names and values have at most 126 bytes."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"test"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *metadata,
    ]
    return b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields
    )
