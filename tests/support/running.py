"""A service started as a user starts it: the load tests start theirs in the same way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from loadtest.harness.service_process import READY, ROOT, Service, eventually, running

__all__ = ["READY", "ROOT", "Service", "eventually", "running", "standing_still"]


@contextmanager
def standing_still(service: Service) -> Iterator[None]:
    """SIGSTOP to the gateway itself, not to its Triton."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)
