"""TLS for both ports. Certificate files are reloaded when they change, without a restart."""

import codecs
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from service.errors import CannotStart
from service.security.secret_files import Stamp, stamp, warn_of_other_users
from service.settings import Settings

log = structlog.get_logger()
# Of TLS 1.2, for the HTTP/1.1 server: forward secrecy, and no CBC. gRPC has the same by default;
# TLS 1.3 has nothing else.
_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
# For gRPC: a suite of TLS 1.2 for which both sides need a key that neither has. TLS 1.3 ignores the
# list, so it is the only version left; grpcio has no setting for the lowest version.
_NO_SUITE = "ECDHE-PSK-CHACHA20-POLY1305"
_Stamps = tuple[Stamp | None, ...]


@dataclass(frozen=True)
class _Loaded:
    """The certificate files at one time, in the form that each library takes."""

    stamps: _Stamps
    context: ssl.SSLContext
    grpc: grpc.ServerCertificateConfiguration


class Tls:
    """Certificate and key of the service, for TLS 1.2 or newer. With a client CA, callers must
    present a certificate that it signed (mutual TLS), over TLS 1.3, at every handshake: a resumed
    session shows no certificate, so it could outlive the certificate and its CA.

    Files are checked at every handshake. While the new files do not match, the old ones stay in use
    and the mismatch is logged: a renewal cannot replace two files at the same moment.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """PEM files; `certificate` may be a chain, leaf first.

        Raises CannotStart when a file cannot be read or they do not match.
        """
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._loaded = self._load()
        self._refused: _Stamps | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Tls | None":
        """None when the settings name no certificate. Raises CannotStart."""
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)

    def rest_context(self) -> ssl.SSLContext:
        """For the HTTP/1.1 server; every handshake uses the current files."""
        context = self._loaded.context

        def use_current(
            connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
        ) -> None:
            connection.context = self._current().context

        context.sni_callback = use_current  # runs at every ClientHello, even without a server name
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the gRPC server; every handshake uses the current files. gRPC requires TLS 1.2.

        No session is resumed, because gRPC makes a new context, with new keys for its tickets,
        whenever the function returns a configuration. See also `grpc_environment`.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.grpc,
            lambda: self._current().grpc,
            require_client_authentication=self._client_ca is not None,
        )

    def _current(self) -> _Loaded:
        stamps = self._stamps()
        if stamps not in (self._loaded.stamps, self._refused):
            try:
                self._loaded = self._load()
                log.info("certificate_renewed", certificate=str(self._certificate))
            except (CannotStart, OSError) as error:
                self._refused = stamps
                log.error("certificate_not_renewed", why=str(error))
        return self._loaded

    def _stamps(self) -> _Stamps:
        files = (self._certificate, self._key, self._client_ca)
        return tuple(None if file is None else _stamp_if_present(file) for file in files)

    def _load(self) -> _Loaded:
        stamps = self._stamps()  # before the contents, so that a later change is always noticed
        certificate = _read(self._certificate, "TLS_CERTIFICATE")
        key = _read(self._key, "TLS_KEY", secret=True)
        client_ca = None if self._client_ca is None else _read(self._client_ca, "TLS_CLIENT_CA")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_SUITES)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except ssl.SSLError as error:
            raise CannotStart(
                f"{self._certificate} and {self._key} are not a PEM certificate and its "
                f"unencrypted key ({_reason(error)})"
            ) from error
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            # TLS 1.3 resumes by tickets only, and OpenSSL keeps those of 1.2 over a new CA.
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
            try:
                # Comments of CA bundles have names in every script.
                context.load_verify_locations(cadata=client_ca.decode("ascii", "ignore"))
            except (ssl.SSLError, ValueError) as error:
                raise CannotStart(
                    f"{self._client_ca} is not a PEM file of CA certificates: "
                    "see CHANNELTOK_TLS_CLIENT_CA"
                ) from error
        configuration: Any = grpc.ssl_server_certificate_configuration(
            [(key, certificate)], client_ca
        )
        return _Loaded(stamps, context, configuration)


def grpc_environment(settings: Settings) -> dict[str, str]:
    """Environment variables that gRPC reads once, when it is imported."""
    return {} if settings.tls_client_ca is None else {"GRPC_SSL_CIPHER_SUITES": _NO_SUITE}


def _stamp_if_present(file: Path) -> Stamp | None:
    try:
        return stamp(file)
    except OSError:
        return None


def _read(file: Path, setting: str, *, secret: bool = False) -> bytes:
    try:
        warn_of_other_users(file, secret=secret)
        content = file.read_bytes()
    except OSError as error:
        raise CannotStart(
            f"cannot read {file} ({error.strerror}): see CHANNELTOK_{setting}"
        ) from error
    if content.startswith(codecs.BOM_UTF8):  # OpenSSL would skip the first certificate
        raise CannotStart(f"{file} begins with a byte order mark: save it as UTF-8 without one")
    return content


def _no_password() -> str:
    return ""  # or OpenSSL would prompt for one at the terminal


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "no PEM found").replace("_", " ").lower()
