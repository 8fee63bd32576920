"""Tls loads certificate files and reloads them. tests/system/test_security.py tests handshakes."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from structlog.testing import capture_logs

from service.errors import CannotStart
from service.security.tls import Tls
from service.settings import Settings
from tests.support.certificates import issue, write_ca
from tests.support.handshakes import TlsClient


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def test_tls_is_none_without_a_certificate() -> None:
    assert Tls.of(Settings()) is None


def test_tls_names_the_file_that_is_unusable(ca: trustme.CA, tmp_path: Path) -> None:
    good, other = issue(ca, tmp_path, "good"), issue(ca, tmp_path, "other")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    (with_mark := tmp_path / "marked.pem").write_text(good.certificate.read_text(), "utf-8-sig")
    wrong = {
        (
            tmp_path / "none.pem",
            good.key,
            None,
        ): r"none\.pem.*No such file.*CHANNELTOK_TLS_CERTIFICATE",
        (
            good.certificate,
            tmp_path / "none.key",
            None,
        ): r"none\.key.*No such file.*CHANNELTOK_TLS_KEY",
        (
            good.certificate,
            good.key,
            tmp_path / "none.pem",
        ): r"none\.pem.*No such file.*CHANNELTOK_TLS_CLIENT_CA",
        (good.certificate, tmp_path, None): r"Is a directory.*CHANNELTOK_TLS_KEY",
        (good.certificate, other.key, None): r"good\.pem and .*other\.key.*key values mismatch",
        (empty, good.key, None): r"empty\.pem and .*not a PEM certificate",
        (good.certificate, empty, None): r"not a PEM certificate and its unencrypted key",
        (good.certificate, encrypted, None): r"unencrypted key",
        (good.certificate, good.key, empty): r"empty\.pem is not a PEM file of CA certificates",
        (good.certificate, good.key, good.key): r"good\.key is not a PEM file of CA certificates",
        (with_mark, good.key, None): r"marked\.pem begins with a byte order mark",
    }
    for (certificate, key, client_ca), sentence in wrong.items():
        with pytest.raises(CannotStart, match=sentence):
            Tls(certificate, key, client_ca)


def test_tls_keeps_the_old_files_during_half_a_renewal_and_logs_once(
    ca: trustme.CA, tmp_path: Path
) -> None:
    files = issue(ca, tmp_path, "server")
    tls = Tls(files.certificate, files.key, write_ca(ca, tmp_path, "ca"))
    before = tls._current()
    new = issue(ca, tmp_path, "new")
    files.certificate.write_bytes(new.certificate.read_bytes())
    with capture_logs() as log:
        assert [tls._current(), tls._current()] == [before, before]
    assert [line["event"] for line in log] == ["certificate_not_renewed"]
    files.key.write_bytes(new.key.read_bytes())
    with capture_logs() as log:
        assert tls._current() is not before
        assert tls._current() is tls._current()
    assert [line["event"] for line in log] == ["certificate_renewed"]
    files.key.unlink()
    with capture_logs() as log:
        assert tls._current() is tls._current()
    assert [line["event"] for line in log] == ["certificate_not_renewed"]


def test_tls_notices_files_that_change_while_they_are_read(
    ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, new = issue(ca, tmp_path, "server"), issue(ca, tmp_path, "new")
    load = ssl.SSLContext.load_cert_chain

    def renew_first(context: ssl.SSLContext, *arguments: Any, **options: Any) -> None:
        os.replace(new.certificate, files.certificate)
        os.replace(new.key, files.key)
        load(context, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_cert_chain", renew_first)
        tls = Tls(files.certificate, files.key)
    with capture_logs() as log:
        tls._current()
    assert [line["event"] for line in log] == ["certificate_renewed"]


def test_tls_takes_a_client_ca_with_comments_in_any_script(ca: trustme.CA, tmp_path: Path) -> None:
    files, file = issue(ca, tmp_path, "server"), write_ca(ca, tmp_path, "ca")
    file.write_text(f"# F\u0151tan\u00fas\u00edtv\u00e1ny\n{file.read_text()}", "utf-8")
    assert Tls(files.certificate, files.key, file)


@contextmanager
def serving_rest(tls: Tls) -> Iterator[str]:
    """HOST:PORT of a server that answers every request, on the REST port's TLS."""
    context = tls.rest_context()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_all() -> None:
            while True:
                try:
                    raw = listening.accept()[0]
                except OSError:
                    return  # closed: the test is over
                with suppress(OSError), raw, context.wrap_socket(raw, server_side=True) as one:
                    one.recv(1000)
                    one.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@contextmanager
def serving_grpc(tls: Tls) -> Iterator[str]:
    """HOST:PORT of a gRPC server without methods."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", tls.grpc_credentials())
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


SERVING = [serving_rest, serving_grpc]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("serving", SERVING)
def test_tls_takes_versions_1_2_and_1_3_with_forward_secrecy_and_aead(
    ca: trustme.CA, tmp_path: Path, serving: Callable[[Tls], AbstractContextManager[str]]
) -> None:
    files = issue(ca, tmp_path, "server")
    with serving(Tls(files.certificate, files.key)) as target:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            agreed = TlsClient(version).handshake(target)
            assert agreed
            assert agreed.version == version.name.replace("_", ".")
        for suites in ("ECDHE+AESGCM", "ECDHE+AES256:!AESCCM"):  # CBC may be offered beside
            agreed = TlsClient(ssl.TLSVersion.TLSv1_2, suites=suites).handshake(target)
            assert agreed
            assert "GCM" in agreed.suite
        for suites in (
            "ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0",  # CBC
            "kRSA:@SECLEVEL=0",  # no forward secrecy
            "kDHE:@SECLEVEL=0",
            "aNULL:eNULL:@SECLEVEL=0",
        ):
            assert not TlsClient(ssl.TLSVersion.TLSv1_2, suites=suites).handshake(target), suites
        assert not TlsClient(ssl.TLSVersion.TLSv1_1).handshake(target)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_client_of_the_tests_could_speak_what_is_refused(
    ca: trustme.CA, tmp_path: Path
) -> None:
    """So that it was the server that refused: one without limits takes the same client."""
    files = issue(ca, tmp_path, "server")
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.set_ciphers("ALL:@SECLEVEL=0")
    lax.minimum_version = ssl.TLSVersion.TLSv1_1
    lax.load_cert_chain(files.certificate, files.key)

    class Lax(Tls):
        def rest_context(self) -> ssl.SSLContext:
            return lax

    with serving_rest(Lax(files.certificate, files.key)) as target:
        assert TlsClient(ssl.TLSVersion.TLSv1_1).handshake(target)
        cbc = TlsClient(ssl.TLSVersion.TLSv1_2, suites="ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0")
        assert cbc.handshake(target)
