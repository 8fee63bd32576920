"""Which web pages may call the service: a browser takes any page's request to any address.

A page of another origin is recognised by what its browser sends, `Sec-Fetch-Site` or `Origin`,
which no page can forge. A page that has made its own name point to our address (DNS rebinding) is
of the same origin, but its name is in `Host`. Callers that are no browsers send none of it.
"""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache

from service.errors import Forbidden
from service.settings import Settings

ANY = "*"
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d*)?")


class BrowserPolicy:
    """Refuses what pages of other origins, or with other names, ask for."""

    def __init__(self, origins: tuple[str, ...], hosts: tuple[str, ...]) -> None:
        """origins: pages that may call, beside our own. hosts: names that the service has, beside
        localhost and its addresses; *.NAME is every name below NAME. Both in lower case; * is
        any.
        """
        self.origins = frozenset(origins)
        self._hosts = frozenset(hosts)

    @classmethod
    def of(cls, settings: Settings) -> "BrowserPolicy":
        return cls(settings.allowed_origins, settings.host_names)

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """headers: with lower-case names. Raises Forbidden."""
        host = headers.get("host")
        if host is not None:  # missing in HTTP/1.0
            self._check_host(host)
        if "origin" in headers or "sec-fetch-site" in headers:
            self._check_origin(method, headers, host or "")

    def _check_host(self, host: str) -> None:
        name = _name(host)
        if name is None or ANY in self._hosts or name in self._hosts:
            return
        _, _, domain = name.partition(".")
        while domain:
            if f"*.{domain}" in self._hosts:
                return
            _, _, domain = domain.partition(".")
        raise Forbidden(
            f"{name[:100]!r} is not a name of this service; "
            "its operator can add it to CHANNELTOK_ALLOWED_HOSTS"
        )

    def _check_origin(self, method: str, headers: Mapping[str, str], host: str) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if ANY in self.origins or (origin is not None and origin.lower() in self.origins):
            return
        if site is None:  # an older browser, or plain http to another machine
            if origin is None or origin.partition("://")[2].lower() == host.lower():
                return
        elif site in ("same-origin", "none"):  # none: the user typed the address
            return
        elif (
            method in ("GET", "HEAD")
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        ):
            return  # a link: the other page sees nothing of ours
        raise Forbidden(
            f"pages of {'another origin' if origin is None else repr(origin[:100])} "
            "may not call this service; its operator can add an origin to "
            "CHANNELTOK_ALLOWED_ORIGINS"
        )


@lru_cache(maxsize=1024)
def _name(host: str) -> str | None:
    """The name in a Host header; None for localhost and addresses, which no one can rebind."""
    match = _HOST.fullmatch(host.strip())
    name = (match[1] if match else host).lower().removesuffix(".")
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None if name == "localhost" or name.endswith(".localhost") else name
    return None
