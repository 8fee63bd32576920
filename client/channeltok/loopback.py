"""Which addresses are on this machine: connections to them never go through a proxy.

Elsewhere, libraries follow http_proxy, https_proxy, grpc_proxy, all_proxy and no_proxy as ever.
"""

import ipaddress
from urllib.parse import urlsplit

_SCHEMES = ("dns:", "ipv4:", "ipv6:")


def reaches_loopback(host: str) -> bool:
    """Whether a connection to a name or address, without port or brackets, stays on this machine.

    So it is with 127.0.0.0/8, ::1, localhost and names below it, and with 0.0.0.0 and ::, which
    Linux takes for loopback. Names are not resolved.
    """
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def url_reaches_loopback(url: str) -> bool:
    """The same of a URL."""
    try:
        return reaches_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def proxy_options(target: str) -> list[tuple[str, int]]:
    """Channel options for a gRPC target: without a proxy where it is on this machine."""
    hosts = [_host(address) for address in _addresses(target)]
    return [("grpc.enable_http_proxy", 0)] if all(map(reaches_loopback, hosts)) else []


def _addresses(target: str) -> list[str]:
    for scheme in _SCHEMES:
        if target.lower().startswith(scheme):
            target = target[len(scheme) :]
            if target.startswith("//"):
                target = target[2:].partition("/")[2]
            return target.split(",")
    return [target]


def _host(address: str) -> str:
    """The host of HOST, HOST:PORT or [HOST]:PORT; an IPv6 address may have lost its brackets."""
    if address.count(":") > 1 and not address.startswith("["):
        return address
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""
