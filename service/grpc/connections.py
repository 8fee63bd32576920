"""Closes connections of the gRPC server, for which gRPC's library has no call.

gRPC keeps a reply until its client takes it, however long that is, and cannot take it back: even an
error waits behind it. What ends such a call is the end of its connection.
"""

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
from urllib.parse import unquote

import structlog

log = structlog.get_logger()
_SOON = 0.2  # one look at the open sockets serves all that are to be closed
_PEER = re.compile(r"ipv[46]:\[?([^\]]+?)\]?:(\d+)")
_Address = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


class Connections:
    """The connections of the server on `port`, which is known once it is bound."""

    def __init__(self) -> None:
        self.port = 0
        self._unwanted: set[str] = set()

    def close(self, peer: str) -> None:
        """Close the connection of a client. peer: as gRPC writes it, ipv4:127.0.0.1:5000."""
        if not self._unwanted:
            asyncio.get_running_loop().call_later(_SOON, self._close_all)
        self._unwanted.add(peer)

    def _close_all(self) -> None:
        unwanted = {_address(*match.groups()) for match in map(_match, self._unwanted) if match}
        self._unwanted.clear()
        closed = 0
        for name in os.listdir("/proc/self/fd"):
            # One that is closed meanwhile, or is no socket of ours, is none to be closed.
            with contextlib.suppress(OSError, ValueError):
                descriptor = int(name)
                if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    continue
                connection = socket.socket(fileno=descriptor)
                try:
                    if (
                        connection.family in (socket.AF_INET, socket.AF_INET6)
                        and connection.getsockname()[1] == self.port
                        and _address(*connection.getpeername()[:2]) in unwanted
                    ):
                        connection.shutdown(socket.SHUT_RDWR)
                        closed += 1
                finally:
                    connection.detach()  # it is gRPC's to close
        log.warning("unread_replies", protocol="grpc", connections_closed=closed)


def _match(peer: str) -> re.Match[str] | None:
    return _PEER.fullmatch(unquote(peer))


def _address(host: str, port: str | int) -> _Address:
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address, int(port)
