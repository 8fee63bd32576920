"""SIGTERM while callers on both protocols, and streams, are being answered."""

import math
import subprocess
import time

import psutil

from loadtest.chaos.attack import Row, Rows, counted
from loadtest.chaos.callers import NOT_ACCEPTED, OK, Callers, Outcome, known_answers, wrong
from loadtest.harness.service_process import running
from service.settings import Settings


def sigterm(short: bool) -> Rows:
    """Each time a service of its own."""
    rounds = 1 if short else 5
    limit = Settings().drain_delay_seconds + Settings().drain_seconds
    outcomes: list[Outcome] = []
    exits, exit_codes, unfinished, left_behind, still_calling, mistaken = [], 0, 0.0, 0, 0, 0
    for _ in range(rounds):
        with running() as service:
            known = known_answers(service)
            children = service.children()
            with Callers(service, go_home=True) as callers:
                time.sleep(1)
                started = time.monotonic()
                try:
                    exit_codes += service.stop(timeout=limit + 15) != 0
                    exits.append(time.monotonic() - started)
                except subprocess.TimeoutExpired:
                    exits.append(math.inf)
                    service.process.kill()
                still_calling += not callers.at_home(10)
            outcomes += callers.outcomes
            mistaken += wrong(callers.outcomes, known)
            said = [
                line["unfinished"] for line in service.events("stopped") if "unfinished" in line
            ]
            unfinished += said[0] if said else math.nan
            left_behind += sum(
                child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children
            )
    # Whoever is told that the service stops, or finds the port closed, was not accepted; any other failure was.
    lost = [outcome.code for outcome in outcomes if outcome.code not in (OK, *NOT_ACCEPTED)]
    refused = [outcome.code for outcome in outcomes if outcome.code in NOT_ACCEPTED]
    yield Row(
        "sigterm_lost",
        f"SIGTERM, {rounds} times: accepted work lost",
        len(lost),
        0,
        note=counted(lost),
    )
    yield Row(
        "sigterm_unfinished", "accepted and left unfinished, as the service logs it", unfinished, 0
    )
    yield Row("sigterm_wrong", "wrong images or tokens", mistaken, 0)
    yield Row(
        "sigterm_callers_left_waiting", "rounds in which a caller was never told", still_calling, 0
    )
    yield Row("sigterm_exit_seconds", "longest until exit", max(exits), limit, unit=" s")
    yield Row("sigterm_bad_exits", "exits with another code than 0", exit_codes, 0)
    yield Row("sigterm_left_behind", "processes left behind", left_behind, 0)
    yield Row("sigterm_calls", "calls", len(outcomes), note=counted(refused))
