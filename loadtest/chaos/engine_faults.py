"""kill -9 and SIGSTOP to the processes of the engine, in the middle of a batch."""

import math
import signal
import time
from collections.abc import Callable

import httpx
import psutil

from loadtest.chaos.attack import Row, Rows, counted
from loadtest.chaos.callers import OK, Callers, known_answers, wrong
from loadtest.harness.service_process import Service, running

ANSWERS = (OK, "ENGINE_UNAVAILABLE", "UNAVAILABLE")  # what a call may end in meanwhile
TIMEOUT = 15.0  # a call without an answer for that long hangs
PATIENCE = 30.0  # seconds after which it is given up
QUIET = 0.7  # seconds without an error: it is serving again


def stubs(short: bool) -> Rows:
    """kill -9 a stub of encode and of decode by turns, and SIGSTOP one."""
    yield from _attack(
        "stub",
        signals=[signal.SIGKILL] * (2 if short else 10) + [signal.SIGSTOP] * (not short),
        seconds=5,
    )


def triton(short: bool) -> Rows:
    """kill -9 tritonserver, and SIGSTOP it."""
    yield from _attack(
        "tritonserver",
        signals=[signal.SIGKILL] * (1 if short else 5) + [signal.SIGSTOP] * (not short),
        seconds=10,
    )


def _attack(name: str, signals: list[signal.Signals], seconds: float) -> Rows:
    recoveries: dict[signal.Signals, list[float]] = {}
    idle_hits = 0
    with running() as service:
        known = known_answers(service)
        count = len(_victims(service, name))
        with Callers(service, timeout=TIMEOUT) as callers:
            for number, which in enumerate(signals):
                # Those of encode come first by their command line: first, last, first, ... hits both engines.
                victim = _victims(service, name)[-(number % 2)]
                idle_hits += callers.in_flight == 0
                struck = time.monotonic()
                victim.send_signal(which)
                recoveries.setdefault(which, []).append(
                    _until_serving(
                        service, callers, struck, lambda: len(_victims(service, name)) >= count
                    )
                )
        outcomes = callers.outcomes
    key = f"kill_{name}"
    codes = [outcome.code for outcome in outcomes if outcome.code != OK]
    others = [code for code in codes if code not in (*ANSWERS, "DEADLINE_EXCEEDED")]
    hung = sum(
        outcome.code == "DEADLINE_EXCEEDED" or outcome.finished - outcome.sent > TIMEOUT
        for outcome in outcomes
    )
    for which, figures in recoveries.items():
        verb = "kill -9" if which is signal.SIGKILL else "SIGSTOP"
        limit = seconds if which is signal.SIGKILL else 10.0
        what = f"{verb} {name}, {len(figures)} times: longest until serving again"
        yield Row(
            f"{key}_{which.name.lower()}_recovery_seconds", what, max(figures), limit, unit=" s"
        )
    yield Row(f"{key}_idle_hits", "struck while no call was in the service", idle_hits, 0)
    yield Row(f"{key}_hung", f"calls without an answer in {TIMEOUT:.0f} s", hung, 0)
    yield Row(
        f"{key}_other_answers",
        "answers that are neither a result nor UNAVAILABLE",
        len(others),
        0,
        note=counted(others),
    )
    yield Row(f"{key}_wrong", "wrong images or tokens", wrong(outcomes, known), 0)
    yield Row(f"{key}_calls", "calls", len(outcomes), note=counted(codes))


def _victims(service: Service, name: str) -> list[psutil.Process]:
    """The stubs, or the tritonserver; by command line, so that those of one model are together."""
    found = []
    for child in service.children(name):
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append((child.cmdline(), child))
        except psutil.NoSuchProcess:
            continue
    return [child for _, child in sorted(found, key=lambda pair: pair[0])]


def _until_serving(
    service: Service, callers: Callers, struck: float, whole: Callable[[], bool]
) -> float:
    """Seconds from the blow until the engine is whole, /readyz says 200, and the last error is over; infinity when that takes too long.

    It counts only once every kind of call was answered after that, and no error came for a while.
    """
    before = len(callers.outcomes)
    back: float | None = None
    while (now := time.monotonic()) < struck + PATIENCE:
        time.sleep(0.05)
        if not (whole() and _ready(service)):
            back = None
            continue
        back = back or now
        since = max(
            [
                back,
                *(outcome.finished for outcome in callers.outcomes[before:] if outcome.code != OK),
            ]
        )
        if now - since > QUIET and callers.all_worked_after(since):
            return since - struck
    return math.inf


def _ready(service: Service) -> bool:
    try:
        return httpx.get(f"{service.rest}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
