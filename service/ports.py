"""Ports of the service: bind them, allow enough open files, print where they are."""

import errno
import resource
import socket
import time

from service import systemd
from service.errors import CannotStart
from service.settings import Settings, host_and_port

BIND_SECONDS = 2.0  # the processes of a killed service take a moment to end
_SPARE_FILES = 1024  # for everything that is not a connection
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # of no interface, or no IPv6 at all


def bind_all(host: str, port: int, protocol: str, *, reuse: bool = False) -> list[socket.socket]:
    """TCP sockets on every address of `host` that this machine has, all on the same port.

    protocol: REST or gRPC. The rest, and what is raised, is as in `bind`.
    """
    bound: list[socket.socket] = []
    missing: CannotStart | None = None
    for address in _addresses(host):
        try:
            bound.append(bind(address, port, protocol, reuse=reuse))
        except CannotStart as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NOT_HERE:
                missing = error
                continue
            for opened in bound:
                opened.close()
            raise
        port = bound[0].getsockname()[1]
    if missing is not None and not bound:
        raise missing
    return bound


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotStart(
            f"CHANNELTOK_HOST: {host!r} is neither an IP address nor a name that can be resolved"
        ) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def bind(address: str, port: int, protocol: str, *, reuse: bool = False) -> socket.socket:
    """A TCP socket that does not listen yet; waits `BIND_SECONDS` for a port that is taken.

    address: IPv4 or IPv6; `::` takes IPv4 as well. protocol: REST or gRPC. reuse: bind a port that
    was opened by `share`. Raises CannotStart.
    """
    try:
        bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    except OSError as error:
        raise CannotStart(_why_not(error, address, port, protocol)) from error
    if address == "::":
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    # In every process: closed connections would keep the port for a minute after a restart.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    give_up = time.monotonic() + BIND_SECONDS
    while True:
        try:
            bound.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < give_up:
                time.sleep(0.05)
                continue
            bound.close()
            raise CannotStart(_why_not(error, address, port, protocol)) from error
        return bound


def _why_not(error: OSError, address: str, port: int, protocol: str) -> str:
    if error.errno in _NOT_HERE:
        return (
            f"CHANNELTOK_HOST: {address} is not an address of this machine ({error.strerror}); "
            "allowed are its own, 0.0.0.0 (all of IPv4) and :: (all)"
        )
    return (
        f"cannot bind {protocol} to {host_and_port(address, port)} ({error.strerror}): "
        f"set CHANNELTOK_{protocol.upper()}_PORT"
    )


def share(bound: socket.socket) -> None:
    """Let workers bind the same port with `reuse`, and nobody without it."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def allow_open_files(connections: int) -> int:
    """Raise the soft limit of open files so that `connections` and all else fit.

    Returns how many connections do: the hard limit is kept, and may be too low for all. The usual
    soft limit is 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        needed = hard
        connections = hard - min(_SPARE_FILES, hard // 2)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return connections


def print_ready(settings: Settings, rest_port: int, grpc_port: int, seconds: float) -> None:
    """Print the line that people and scripts wait for, tell systemd. seconds: since the start."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    grpc, rest = host_and_port(host, grpc_port), host_and_port(host, rest_port)
    rest = f"{'https' if settings.tls_certificate else 'http'}://{rest}"
    print(
        f"\nready in {seconds:.1f} s   REST {rest}  ({rest}/docs)   gRPC {grpc}\n\n"
        f"    curl --data-binary @docs/images/cat.jpg '{rest}/v1/encode?k=64'\n",
        flush=True,
    )
    systemd.notify("READY=1")
