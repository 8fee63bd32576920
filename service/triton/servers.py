"""How many servers a gRPC target names."""

import asyncio
import socket
from collections import Counter


async def count_servers(target: str) -> int:
    """Servers that gRPC takes in turn for a target; 1 where that cannot be found out.

    target: host:port, or one with a scheme: "dns:///host:port", "ipv4:address:port,...",
    "unix:path". A server with an IPv4 and an IPv6 address counts once.
    """
    scheme, _, rest = target.partition(":")
    if scheme in ("ipv4", "ipv6"):
        return rest.count(",") + 1
    if scheme in ("unix", "unix-abstract"):
        return 1
    host, _, port = target.rpartition("/")[2].rpartition(":")
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        return 1
    return max(Counter(family for family, *_ in addresses).values(), default=1)
