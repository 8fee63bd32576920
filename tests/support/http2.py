"""HTTP/2 frames by hand, for what no gRPC client would send."""

import socket
import struct
import time
from contextlib import suppress

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_HEADERS = 4


class Connection:
    """A plain-text HTTP/2 connection to HOST:PORT, preface and settings sent."""

    def __init__(self, target: str, timeout: float = 20, source: str = "") -> None:
        """source: address to connect from."""
        host, port = target.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout, (source, 0))
        self._buffer = b""
        with suppress(ConnectionError):  # if the service has hung up, reading shows it
            self._socket.sendall(_PREFACE)
            self.send(SETTINGS, 0, b"")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, kind: int, stream: int, body: bytes, flags: int = 0) -> None:
        self._socket.sendall(
            struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body
        )

    def call(self, stream: int, path: str) -> None:
        """Send the headers of a gRPC call, without its message."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        literal = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields.items()
        )
        self.send(HEADERS, stream, literal, END_HEADERS)

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
