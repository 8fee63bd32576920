"""`python -m service.health_check`: HEALTHCHECK of the container images.

Exits with 0 when the service of this container is ready, else with 1 and the reason. It requests
/readyz at the address, port and protocol of the service's environment and flags. It imports the
standard library only, because it runs every few seconds.
"""

import argparse
import contextlib
import http.client
import os
import ssl
import sys
from pathlib import Path

TIMEOUT_SECONDS = 2.0
SETTINGS = {
    "host": "127.0.0.1",
    "rest_port": "8080",
    "tls_certificate": None,
    "tls_key": None,
    "tls_client_ca": None,
}


def settings(arguments: list[str]) -> argparse.Namespace:
    """The service's flags, else its environment, else its defaults. Other flags are ignored."""
    parser = argparse.ArgumentParser(
        prog="python -m service.health_check", description=__doc__, allow_abbrev=False
    )
    for name, default in SETTINGS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=os.environ.get(f"CHANNELTOK_{name.upper()}") or default,
        )
    return parser.parse_known_args(arguments)[0]


def check(options: argparse.Namespace) -> str | None:
    """None when the service is ready, else why not.

    With mutual TLS it presents the service's own certificate. Where the service refuses it, the
    port answers over TLS, which is all that can be known.
    """
    try:
        with contextlib.closing(_connection(options)) as connection:
            connection.connect()
            try:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
            except (ssl.SSLError, ConnectionError):
                # TLS 1.3 refuses a certificate after the handshake.
                if options.tls_client_ca:
                    return None
                raise
            return (
                None if response.status == 200 else response.read().decode(errors="replace").strip()
            )
    except ssl.SSLError as error:
        return f"TLS failed: {error}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no answer from {options.host}, port {options.rest_port}: {error}"


def _connection(options: argparse.Namespace) -> http.client.HTTPConnection:
    host = options.host.removeprefix("[").removesuffix("]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    port = int(options.rest_port)
    if not options.tls_certificate:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    context = ssl.create_default_context()
    context.check_hostname = False  # the certificate names the service, not loopback
    context.verify_mode = ssl.CERT_NONE
    if options.tls_client_ca:
        context.load_cert_chain(options.tls_certificate, options.tls_key)
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


def service_arguments() -> list[str]:
    """The arguments of the container's main process."""
    return Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")


def main() -> None:
    why_not = check(settings(sys.argv[1:] or service_arguments()))
    if why_not is not None:
        sys.exit(f"not ready: {why_not}")


if __name__ == "__main__":
    main()
