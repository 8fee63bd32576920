"""Which files start a service, and what happens when they change. That handshakes are refused is shown in tests/system/test_security.py."""

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


def test_no_certificate_no_tls() -> None:
    assert Tls.of(Settings()) is None


def test_files_that_are_no_good_say_which(ca: trustme.CA, tmp_path: Path) -> None:
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


def test_half_a_renewal_keeps_the_old_and_is_logged_once(ca: trustme.CA, tmp_path: Path) -> None:
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


def test_the_floor_is_tls_1_2(ca: trustme.CA, tmp_path: Path) -> None:
    files = issue(ca, tmp_path, "server")
    assert (
        Tls(files.certificate, files.key).rest_context().minimum_version == ssl.TLSVersion.TLSv1_2
    )
