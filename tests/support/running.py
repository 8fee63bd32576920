"""Start the service as a user does (re-exported from the load tests' harness), pause it, or see it
fail to start."""

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
    """Pause the gateway, not its Triton, by SIGSTOP; continue it at the end of `with`."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)


def refused_start(**environment: str) -> str:
    """Start a service that must fail in this environment; returns its stderr."""
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
