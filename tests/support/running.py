"""A service started as a user starts it: the load tests start theirs in the same way."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from loadtest.harness.service_process import READY, ROOT, Service, eventually, running

__all__ = ["READY", "ROOT", "Service", "eventually", "refused_start", "running", "standing_still"]


@contextmanager
def standing_still(service: Service) -> Iterator[None]:
    """SIGSTOP to the gateway itself, not to its Triton."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)


def refused_start(**environment: str) -> str:
    """What a service that cannot start in this environment says on stderr."""
    result = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env={**os.environ, "CHANNELTOK_REST_PORT": "0", "CHANNELTOK_GRPC_PORT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr
