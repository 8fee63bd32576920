"""Environments that break programs: no variables, dead proxies, IPv6, output that nobody reads, and
a cleaner of files. Honest clients call meanwhile."""

import socket
import time
from collections.abc import Callable

import httpx

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import OK, Clients, count_wrong, expected_answers
from loadtest.chaos.engine_faults import ALLOWED, processes, recovery_seconds
from loadtest.harness.environments import bare, dead_proxies
from loadtest.harness.service_process import Service, eventually, running

CALLING_SECONDS = 2.0
RECOVERY_SECONDS = 10.0
TRITON = "tritonserver"
LINES = 1000  # of the log, about 200 bytes each: several times what a pipe holds


def environment(short: bool) -> Rows:
    """Three services, one after the other; short: the last alone."""
    host = "::1" if _has_ipv6() else "127.0.0.1"
    if not short:
        with running(under=bare(), host=host) as service:
            yield from _calls(service, "bare", f"no environment variables, on {host}")
        with running(under=dead_proxies()) as service:
            yield from _calls(service, "proxies", "dead proxies")
            yield from _recovery(service, "files", "Triton's sockets removed", _remove_sockets)
    with running(log_level="debug") as service:
        service.stop_reading(close=False)
        _write_log(service)
        yield from _calls(service, "unread", "a log that nobody reads")
        service.stop_reading(close=True)
        yield from _calls(service, "closed", "a log whose reader has gone")
        yield from _recovery(service, "closed_kill", "kill -9 of Triton, log closed", _kill_triton)
        started = time.monotonic()
        code = service.stop()
        label = "SIGTERM, log closed: exit code"
        yield Row("environment_exit_code", label, code, 0)
        seconds = time.monotonic() - started
        yield Row("environment_exit_seconds", "time until exit", seconds, 20, unit=" s")


def _calls(service: Service, name: str, label: str) -> Rows:
    expected = expected_answers(service)
    with Clients(service) as clients:
        time.sleep(CALLING_SECONDS)
    failed = [outcome.code for outcome in clients.outcomes if outcome.code != OK]
    note = f"of {len(clients.outcomes)} calls" + f": {tally(failed)}" * bool(failed)
    yield Row(f"environment_{name}_failed", f"{label}: failed calls", len(failed), 0, note=note)
    wrong = count_wrong(clients.outcomes, expected)
    yield Row(f"environment_{name}_wrong", f"{label}: wrong answers", wrong, 0)


def _recovery(service: Service, name: str, label: str, strike: Callable[[Service], None]) -> Rows:
    """Rows of a fault after which another tritonserver must serve the calls."""
    expected = expected_answers(service)
    with Clients(service) as clients:
        before = set(processes(service, TRITON))
        struck = time.monotonic()
        strike(service)
        eventually(lambda: not before & set(processes(service, TRITON)), 30, "another tritonserver")
        seconds = recovery_seconds(service, clients, struck, TRITON, 1)
    codes = [outcome.code for outcome in clients.outcomes if outcome.code != OK]
    others = [code for code in codes if code not in ALLOWED]
    key = f"environment_{name}"
    yield Row(f"{key}_seconds", f"{label}: recovery", seconds, RECOVERY_SECONDS, unit=" s")
    other = "answers other than a result or UNAVAILABLE"
    yield Row(f"{key}_other", f"{label}: {other}", len(others), 0, note=tally(others))
    wrong = count_wrong(clients.outcomes, expected)
    yield Row(f"{key}_wrong", f"{label}: wrong answers", wrong, 0)


def _kill_triton(service: Service) -> None:
    for process in processes(service, TRITON):
        process.kill()


def _remove_sockets(service: Service) -> None:
    """As a cleaner of temporary folders would, where it reached them."""
    for path in service.triton_folder().iterdir():
        if path.is_socket():
            path.unlink()


def _write_log(service: Service) -> None:
    with httpx.Client(base_url=service.rest, timeout=30) as rest:
        for _ in range(LINES):
            rest.get(f"/{'long' * 25}")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
