"""Ports of the service: bind them, allow enough open files, print where they are."""

import resource
import socket

from service.errors import CannotStart
from service.settings import Settings

_SPARE_FILES = 1024  # for everything that is not a connection


def bind(host: str, port: int, protocol: str, *, reuse: bool) -> socket.socket:
    """A TCP socket that does not listen yet. Raises CannotStart when the port is taken.

    protocol: REST or gRPC. reuse: other sockets may bind the same port (SO_REUSEPORT).
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if reuse else socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise CannotStart(
            f"cannot bind {protocol} to {host}:{port} ({error.strerror}): "
            f"set CHANNELTOK_{protocol.upper()}_PORT"
        ) from error
    return bound


def allow_open_files(connections: int) -> None:
    """Raise the soft limit of open files so that our own limit of connections acts before it.

    The usual soft limit is 1,024; the hard limit is kept.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def print_ready(settings: Settings, rest_port: int, grpc_port: int, seconds: float) -> None:
    """Print the line that people and scripts wait for. seconds: since the start."""
    rest = f"{'https' if settings.tls_certificate else 'http'}://{settings.host}:{rest_port}"
    grpc = f"{settings.host}:{grpc_port}"
    print(
        f"\nready in {seconds:.1f} s   REST {rest}  ({rest}/docs)   gRPC {grpc}\n\n"
        f"    curl --data-binary @docs/images/cat.jpg '{rest}/v1/encode?k=64'\n",
        flush=True,
    )
