"""Tls loads certificate files and reloads them. tests/system/test_security.py tests handshakes."""

import ssl
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from service.errors import CannotStart
from service.security.tls import Tls
from service.settings import Settings
from tests.support.certificates import issue, write_ca


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
    assert tls._current() is not before


def test_tls_requires_version_1_2(ca: trustme.CA, tmp_path: Path) -> None:
    files = issue(ca, tmp_path, "server")
    assert (
        Tls(files.certificate, files.key).rest_context().minimum_version == ssl.TLSVersion.TLSv1_2
    )
