"""The containers' health check takes address, port and protocol from flags and environment."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from service import health_check
from service.settings import Settings
from tests.support.certificates import issue, write_ca


@contextmanager
def answering(status: int, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on loopback that answers every request with `status`. Yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b"why not")

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a handshake that was refused

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_health_check_has_the_defaults_of_the_service() -> None:
    for name, default in health_check.SETTINGS.items():
        assert name in Settings.model_fields
        expected = Settings.model_fields[name].default
        assert default == (None if expected is None else str(expected))


def test_health_check_prefers_flags_to_the_environment_and_ignores_other_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHANNELTOK_REST_PORT", "9000")
    monkeypatch.setenv("CHANNELTOK_HOST", "0.0.0.0")
    command = ["python", "-m", "service", "--workers", "2", "--rest-port", "9001"]
    options = health_check.settings(command)
    assert (options.host, options.rest_port) == ("0.0.0.0", "9001")
    assert health_check.settings([]).rest_port == "9000"


@pytest.mark.parametrize(("status", "why_not"), [(200, None), (503, "why not")])
def test_health_check_follows_readyz(status: int, why_not: str | None) -> None:
    with answering(status) as port:
        assert (
            health_check.check(
                health_check.settings(["--host", "0.0.0.0", "--rest-port", str(port)])
            )
            == why_not
        )


def test_health_check_names_a_port_without_a_listener() -> None:
    assert "port 1: " in str(health_check.check(health_check.settings(["--rest-port", "1"])))


@pytest.mark.parametrize(
    "signed", [None, True, False], ids=["tls", "mutual", "mutual, of another CA"]
)
def test_health_check_connects_over_tls(tmp_path: Path, signed: bool | None) -> None:
    ca, other = trustme.CA(), trustme.CA()
    files = issue(ca, tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    flags = ["--tls-certificate", str(files.certificate), "--tls-key", str(files.key)]
    if signed is not None:
        clients = write_ca(ca if signed else other, tmp_path, "clients")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
        flags += ["--tls-client-ca", str(clients)]
    with answering(503, context) as port:
        why_not = health_check.check(health_check.settings([*flags, "--rest-port", str(port)]))
    # Without an accepted certificate, nothing more is known than that the port answers.
    assert why_not == (None if signed is False else "why not")
    with answering(503) as port:  # plain text where TLS was expected
        assert "TLS failed" in str(
            health_check.check(health_check.settings([*flags, "--rest-port", str(port)]))
        )
