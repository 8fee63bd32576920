"""TLS handshakes with exactly the version, suites and session that a test names."""

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass

from tests.support.certificates import Files

# The first bytes of HTTP/2 and a request of HTTP/1.1, so that either server answers something.
_FIRST_BYTES = {
    "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "http/1.1": b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n",
}


@dataclass(frozen=True)
class Handshake:
    """What was agreed. session: for a later handshake with the same `TlsClient`."""

    version: str | None
    suite: str
    resumed: bool | None
    session: ssl.SSLSession | None


class TlsClient:
    """Speaks one TLS version with one list of TLS 1.2 suites, and trusts every server."""

    def __init__(
        self, version: ssl.TLSVersion, own: Files | None = None, suites: str = "ALL:@SECLEVEL=0"
    ) -> None:
        """own: certificate and key for mutual TLS. suites: as OpenSSL names them."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._context.set_ciphers(suites)
        self._context.minimum_version = self._context.maximum_version = version
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        if own is not None:
            self._context.load_cert_chain(own.certificate, own.key)

    def handshake(self, target: str, session: ssl.SSLSession | None = None) -> Handshake | None:
        """None if the server refuses. target: HOST:PORT or https://HOST:PORT.

        It reads a first answer: TLS 1.3 refuses certificates and sends sessions after the
        handshake.
        """
        host, port = target.removeprefix("https://").split(":")
        with (
            suppress(ssl.SSLError, ConnectionError),
            socket.create_connection((host, int(port)), timeout=10) as raw,
            self._context.wrap_socket(raw, session=session) as connection,
        ):
            connection.sendall(_FIRST_BYTES[connection.selected_alpn_protocol() or "http/1.1"])
            if connection.recv(1):
                suite, *_ = connection.cipher() or ("",)
                return Handshake(
                    connection.version(), suite, connection.session_reused, connection.session
                )
        return None
