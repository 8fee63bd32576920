"""kill -9 and SIGSTOP of engine processes and tritonserver, in the middle of a batch."""

import math
import signal
import time

import httpx
import psutil

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import OK, Clients, count_wrong, expected_answers
from loadtest.harness.service_process import Service, running

ALLOWED = (OK, "ENGINE_UNAVAILABLE", "UNAVAILABLE", "DEADLINE_EXCEEDED")  # codes during the attack
TIMEOUT = 15.0  # seconds after which a call counts as hung
RECOVERY_TIMEOUT = 30.0  # seconds after which the service counts as not recovered
QUIET = 0.7  # seconds without an error after which the service counts as recovered


def stubs(short: bool) -> Rows:
    """kill -9 of a stub of encode and of decode in turn, and SIGSTOP of one."""
    signals = [signal.SIGKILL] * (2 if short else 10) + [signal.SIGSTOP] * (not short)
    yield from _attack("stub", signals, seconds=5)


def triton(short: bool) -> Rows:
    """kill -9 of tritonserver, and SIGSTOP."""
    signals = [signal.SIGKILL] * (1 if short else 5) + [signal.SIGSTOP] * (not short)
    yield from _attack("tritonserver", signals, seconds=10)


def _attack(name: str, signals: list[signal.Signals], seconds: float) -> Rows:
    recoveries: dict[signal.Signals, list[float]] = {}
    idle_hits = 0
    with running() as service:
        expected = expected_answers(service)
        count = len(processes(service, name))
        with Clients(service, timeout=TIMEOUT) as clients:
            for number, which in enumerate(signals):
                # Sorted by command line, encode comes first: alternating ends hit both engines.
                victim = processes(service, name)[-(number % 2)]
                idle_hits += clients.in_flight == 0
                struck = time.monotonic()
                victim.send_signal(which)
                recovery = recovery_seconds(service, clients, struck, name, count)
                recoveries.setdefault(which, []).append(recovery)
        outcomes = clients.outcomes
    key = f"kill_{name}"
    codes = [outcome.code for outcome in outcomes if outcome.code != OK]
    others = [code for code in codes if code not in ALLOWED]
    hung = sum(
        outcome.code == "DEADLINE_EXCEEDED" or outcome.finished - outcome.sent > TIMEOUT
        for outcome in outcomes
    )
    for which, figures in recoveries.items():
        verb, limit = ("kill -9", seconds) if which is signal.SIGKILL else ("SIGSTOP", 10.0)
        label = f"{verb} {name}, {len(figures)} times: longest recovery"
        recovery_key = f"{key}_{which.name.lower()}_recovery_seconds"
        yield Row(recovery_key, label, max(figures), limit, unit=" s")
    yield Row(f"{key}_idle_hits", "signals sent while no call was in flight", idle_hits, 0)
    yield Row(f"{key}_hung", f"calls without an answer in {TIMEOUT:.0f} s", hung, 0)
    label = "answers other than a result or UNAVAILABLE"
    yield Row(f"{key}_other_answers", label, len(others), 0, note=tally(others))
    yield Row(f"{key}_wrong", "wrong images or tokens", count_wrong(outcomes, expected), 0)
    yield Row(f"{key}_calls", "calls", len(outcomes), note=tally(codes))


def processes(service: Service, name: str) -> list[psutil.Process]:
    """Live stubs, or the tritonserver, sorted by command line so that a model's are adjacent."""
    alive = []
    for child in service.children(name):
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                alive.append((child.cmdline(), child))
        except psutil.NoSuchProcess:
            continue
    return [child for _, child in sorted(alive, key=lambda pair: pair[0])]


def recovery_seconds(
    service: Service, clients: Clients, struck: float, name: str, count: int
) -> float:
    """Seconds from the signal until all processes run, /readyz is 200, and the last error is over.

    Infinity after RECOVERY_TIMEOUT. Recovery is confirmed by a result of every kind of call after
    that moment, and no error for a while.
    """
    before = len(clients.outcomes)
    back: float | None = None
    while (now := time.monotonic()) < struck + RECOVERY_TIMEOUT:
        time.sleep(0.05)
        if not (len(processes(service, name)) >= count and _ready(service)):
            back = None
            continue
        back = back or now
        errors = [row.finished for row in clients.outcomes[before:] if row.code != OK]
        since = max([back, *errors])
        if now - since > QUIET and clients.all_kinds_ok_since(since):
            return since - struck
    return math.inf


def _ready(service: Service) -> bool:
    try:
        return httpx.get(f"{service.rest}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
