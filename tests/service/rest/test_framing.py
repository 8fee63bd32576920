"""StrictParser refuses what two servers could read differently, and takes what one cannot."""

import h11
import pytest

from service.rest.framing import StrictParser

HOST = b"Host: localhost\r\n"


def events(*pieces: bytes) -> list[type]:
    """Types of the events that these bytes cause."""
    parser, seen = StrictParser(h11.SERVER, 16_384), []
    for piece in pieces:
        parser.receive_data(piece)
        while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            seen.append(type(event))
    return seen


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5, 6\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X-A: a\nContent-Length: 3\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X-A: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X-A: a\r\n\tContent-Length: 3\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X-A: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length : 3\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "byte by byte"])
def test_strict_parser_refuses(head: bytes, at_once: bool) -> None:
    pieces = [head] if at_once else [bytes([byte]) for byte in head]
    with pytest.raises(h11.RemoteProtocolError):
        events(*pieces)


def test_strict_parser_takes_ordinary_requests() -> None:
    with_length = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\na\nb\n "
    assert events(with_length) == [h11.Request, h11.Data, h11.EndOfMessage]
    chunked = (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\n"
    )
    assert events(chunked) == [h11.Request, h11.Data, h11.EndOfMessage]
    older = b"GET / HTTP/1.0\r\n\r\n"
    assert events(older) == [h11.Request, h11.EndOfMessage]
    assert events(*(bytes([byte]) for byte in with_length))[0] is h11.Request
