"""Commands that run a program in an environment as hosts have it: without anything, or with proxies
that are dead."""

import os

_DEAD = "http://127.0.0.1:9"  # the port "discard": nobody listens
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_EXCEPTIONS = ("no_proxy", "no_grpc_proxy")


def bare() -> list[str]:
    """`env`, without all that is set here."""
    return ["env", *(f"--unset={name}" for name in os.environ if name != "PYTHONPATH")]


def dead_proxies() -> list[str]:
    """`env`, with dead proxies for everything, and exceptions for nothing."""
    return [
        "env",
        *(f"--unset={spelling}" for name in _EXCEPTIONS for spelling in (name, name.upper())),
        *(f"{spelling}={_DEAD}" for name in _PROXIES for spelling in (name, name.upper())),
    ]
