"""Ports of the service: bind them, allow enough open files, print where they are."""

import errno
import resource
import socket
import time

from service import systemd
from service.errors import CannotStart
from service.settings import Settings

BIND_SECONDS = 2.0  # the processes of a killed service take a moment to end
_SPARE_FILES = 1024  # for everything that is not a connection


def bind(host: str, port: int, protocol: str, *, reuse: bool = False) -> socket.socket:
    """A TCP socket that does not listen yet; waits `BIND_SECONDS` for a port that is taken.

    protocol: REST or gRPC. reuse: bind a port that was opened by `share`. Raises CannotStart.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # In every process: closed connections would keep the port for a minute after a restart.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    give_up = time.monotonic() + BIND_SECONDS
    while True:
        try:
            bound.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < give_up:
                time.sleep(0.05)
                continue
            bound.close()
            raise CannotStart(
                f"cannot bind {protocol} to {host}:{port} ({error.strerror}): "
                f"set CHANNELTOK_{protocol.upper()}_PORT"
            ) from error
        return bound


def share(bound: socket.socket) -> None:
    """Let workers bind the same port with `reuse`, and nobody without it."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


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
    """Print the line that people and scripts wait for, tell systemd. seconds: since the start."""
    rest = f"{'https' if settings.tls_certificate else 'http'}://{settings.host}:{rest_port}"
    grpc = f"{settings.host}:{grpc_port}"
    print(
        f"\nready in {seconds:.1f} s   REST {rest}  ({rest}/docs)   gRPC {grpc}\n\n"
        f"    curl --data-binary @docs/images/cat.jpg '{rest}/v1/encode?k=64'\n",
        flush=True,
    )
    systemd.notify("READY=1")
