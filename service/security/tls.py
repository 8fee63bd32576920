"""TLS for both ports. Certificate files are reloaded when they change, without a restart."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from service.errors import CannotStart
from service.settings import Settings

log = structlog.get_logger()
_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class _Loaded:
    """The certificate files at one time, in the form that each library takes."""

    stamp: _Stamp
    context: ssl.SSLContext
    grpc: grpc.ServerCertificateConfiguration


class Tls:
    """Certificate and key of the service, for TLS 1.2 or newer. With a client CA, callers must
    present a certificate that it signed (mutual TLS).

    Files are checked at every handshake. While the new files do not match, the old ones stay in use
    and the mismatch is logged: a renewal cannot replace two files at the same moment.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """PEM files; `certificate` may be a chain, leaf first.

        Raises CannotStart when a file cannot be read or they do not match.
        """
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._loaded = self._load()
        self._refused: _Stamp | None = None

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
        """For the gRPC server; every handshake uses the current files. gRPC requires TLS 1.2."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.grpc,
            lambda: self._current().grpc,
            require_client_authentication=self._client_ca is not None,
        )

    def _current(self) -> _Loaded:
        try:
            stamp = self._stamp()
            if stamp not in (self._loaded.stamp, self._refused):
                self._refused = stamp  # unless it loads
                self._loaded = self._load()
                log.info("certificate_renewed", certificate=str(self._certificate))
        except (CannotStart, OSError) as error:
            log.error("certificate_not_renewed", why=str(error))
        return self._loaded

    def _stamp(self) -> _Stamp:
        files = [
            file for file in (self._certificate, self._key, self._client_ca) if file is not None
        ]
        return tuple(
            (status.st_ino, status.st_size, status.st_mtime_ns)
            for status in (file.stat() for file in files)
        )

    def _load(self) -> _Loaded:
        certificate = _read(self._certificate, "TLS_CERTIFICATE")
        key = _read(self._key, "TLS_KEY")
        client_ca = None if self._client_ca is None else _read(self._client_ca, "TLS_CLIENT_CA")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
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
            # A resumed session presents no certificate, so it could outlive the removal of its CA.
            context.num_tickets = 0
            try:
                context.load_verify_locations(cadata=client_ca.decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                raise CannotStart(
                    f"{self._client_ca} is not a PEM file of CA certificates: "
                    "see CHANNELTOK_TLS_CLIENT_CA"
                ) from error
        configuration: Any = grpc.ssl_server_certificate_configuration(
            [(key, certificate)], client_ca
        )
        return _Loaded(self._stamp(), context, configuration)


def _read(file: Path, setting: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CannotStart(
            f"cannot read {file} ({error.strerror}): see CHANNELTOK_{setting}"
        ) from error


def _no_password() -> str:
    return ""  # or OpenSSL would prompt for one at the terminal


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "no PEM found").replace("_", " ").lower()
