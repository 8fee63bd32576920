"""SIGTERM while clients on both protocols, and streams, are being served."""

import math
import subprocess
import time

import psutil

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import NOT_ACCEPTED, OK, Clients, Outcome, count_wrong, expected_answers
from loadtest.harness.service_process import running
from service.settings import Settings


def sigterm(short: bool) -> Rows:
    """Each round starts its own service."""
    rounds = 1 if short else 5
    limit = Settings().drain_delay_seconds + Settings().drain_seconds
    outcomes: list[Outcome] = []
    exits, bad_exits, unfinished, left_behind, still_calling, wrong = [], 0, 0.0, 0, 0, 0
    for _ in range(rounds):
        with running() as service:
            expected = expected_answers(service)
            children = service.children()
            with Clients(service, stop_when_refused=True) as clients:
                time.sleep(1)
                started = time.monotonic()
                try:
                    bad_exits += service.stop(timeout=limit + 15) != 0
                    exits.append(time.monotonic() - started)
                except subprocess.TimeoutExpired:
                    exits.append(math.inf)
                    service.process.kill()
                still_calling += not clients.ended(10)
            outcomes += clients.outcomes
            wrong += count_wrong(clients.outcomes, expected)
            events = [event for event in service.events("stopped") if "unfinished" in event]
            unfinished += events[0]["unfinished"] if events else math.nan
            left_behind += sum(
                child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children
            )
    # A call refused with NOT_ACCEPTED was never accepted; every other failure is lost work.
    lost = [outcome.code for outcome in outcomes if outcome.code not in (OK, *NOT_ACCEPTED)]
    refused = [outcome.code for outcome in outcomes if outcome.code in NOT_ACCEPTED]
    label = f"SIGTERM, {rounds} times: accepted work lost"
    yield Row("sigterm_lost", label, len(lost), 0, note=tally(lost))
    label = "accepted and left unfinished, as the service logs it"
    yield Row("sigterm_unfinished", label, unfinished, 0)
    yield Row("sigterm_wrong", "wrong images or tokens", wrong, 0)
    label = "rounds in which a client was never refused"
    yield Row("sigterm_clients_left_waiting", label, still_calling, 0)
    yield Row("sigterm_exit_seconds", "longest until exit", max(exits), limit, unit=" s")
    yield Row("sigterm_bad_exits", "exits with a code other than 0", bad_exits, 0)
    yield Row("sigterm_left_behind", "processes left behind", left_behind, 0)
    yield Row("sigterm_calls", "calls", len(outcomes), note=tally(refused))
