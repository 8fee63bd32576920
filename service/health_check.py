"""`python -m service.health_check`: the health check of the images.

Exits with 0 when the service of this container is ready, else with 1 and a sentence. It asks /readyz on
the address, port and protocol that the service was given, by environment or by flags. It imports the
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
            default=os.environ.get(f"CHANNELTOK_{name.upper()}", default),
        )
    return parser.parse_known_args(arguments)[0]


def check(given: argparse.Namespace) -> str | None:
    """None when the service is ready, else why not.

    With mutual TLS it shows the service's own certificate. Where that is refused, the port answers over
    TLS, and nothing more can be known.
    """
    try:
        with contextlib.closing(_connection(given)) as connection:
            connection.connect()
            try:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
            except (
                ssl.SSLError,
                ConnectionError,
            ):  # TLS 1.3 refuses a certificate after the handshake
                if given.tls_client_ca:
                    return None
                raise
            return (
                None if response.status == 200 else response.read().decode(errors="replace").strip()
            )
    except ssl.SSLError as error:
        return f"TLS failed: {error}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no answer from {given.host}, port {given.rest_port}: {error}"


def _connection(given: argparse.Namespace) -> http.client.HTTPConnection:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(given.host, given.host)
    port = int(given.rest_port)
    if not given.tls_certificate:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    context = ssl.create_default_context()
    context.check_hostname = False  # the certificate is for the service's name, not for loopback
    context.verify_mode = ssl.CERT_NONE
    if given.tls_client_ca:
        context.load_cert_chain(given.tls_certificate, given.tls_key)
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


def flags_of_the_service() -> list[str]:
    """The arguments of the container's main process."""
    return Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")


def main() -> None:
    why_not = check(settings(sys.argv[1:] or flags_of_the_service()))
    if why_not is not None:
        sys.exit(f"not ready: {why_not}")


if __name__ == "__main__":
    main()
