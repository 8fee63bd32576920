"""Whether this machine has IPv6."""

import socket

import pytest


def _why_not() -> str:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return str(error)
    return ""


needs_ipv6 = pytest.mark.skipif(bool(_why_not()), reason=f"no IPv6 here: {_why_not()}")
