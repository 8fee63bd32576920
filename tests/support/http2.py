"""HTTP/2 frames by hand, for what no gRPC client would send."""

import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS = 1, 4
READS_NOTHING = struct.pack(">HI", 4, 0)  # settings: the initial window has 0 bytes
Metadata = Sequence[tuple[bytes, bytes]]


class Connection:
    """A plain-text HTTP/2 connection to HOST:PORT, preface and settings sent."""

    def __init__(
        self, target: str, timeout: float = 20, source: str = "", settings: bytes = b""
    ) -> None:
        """source: address to connect from. settings: the body of the frame of that name."""
        host, port = target.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout, (source, 0))
        self._buffer = b""
        with suppress(ConnectionError):  # if the service has hung up, reading shows it
            self._socket.sendall(_PREFACE)
            self.send(SETTINGS, 0, settings)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, kind: int, stream: int, body: bytes, flags: int = 0) -> None:
        self._socket.sendall(
            struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body
        )

    def call(self, stream: int, path: str | bytes, metadata: Metadata = (), ends: int = 0) -> None:
        """Send the headers of a gRPC call, without its message. ends: END_STREAM or 0."""
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode() if isinstance(path, str) else path),
            (b":authority", b"test"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *metadata,
        ]
        literal = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)
        self.send(HEADERS, stream, literal, END_HEADERS | ends)

    def frames_until(self, *kinds: int) -> tuple[list[int], float]:
        """Frame types up to one of `kinds` or the end of the connection (-1), and the seconds."""
        started, seen = time.monotonic(), []
        while not seen or seen[-1] not in kinds:
            while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(
                self._buffer[:3], "big"
            ):
                try:
                    more = self._socket.recv(65536)
                except ConnectionError:
                    more = b""
                if not more:
                    return [*seen, -1], time.monotonic() - started
                self._buffer += more
            seen.append(self._buffer[3])
            self._buffer = self._buffer[9 + int.from_bytes(self._buffer[:3], "big") :]
        return seen, time.monotonic() - started


def _text(value: bytes) -> bytes:
    """A string of HPACK, without Huffman coding."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    length, rest = b"\x7f", len(value) - 127
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + value
