"""Export a new version of the demo tokenizer into the repository of a service under load."""

import tempfile
import time
from pathlib import Path

from loadtest.chaos import models
from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import OK, Clients, count_wrong, expected_answers
from loadtest.harness.service_process import running

TIMEOUT = 20.0  # seconds after the export within which responses must carry the new fingerprint
AFTERWARDS = 2.0  # seconds for which the load goes on after the switch


def switch(short: bool) -> Rows:
    """Clients encode, and decode the results, before, during and after the switch; a fresh service
    on the new repository provides the expected answers.

    short: the export runs beforehand, and its result is moved into place.
    """
    with tempfile.TemporaryDirectory(prefix="channeltok-chaos-") as folder:
        repository = models.demo_repository(Path(folder))
        prepared = models.nudged_repository() if short else None
        checkpoint = models.nudged_demo(Path(folder))
        with running(model_repository=str(repository), probe_seconds="1") as service:
            expected = expected_answers(service)
            (before,) = {fingerprint for fingerprint, _, _ in expected}
            with Clients(service, pairs=1 if short else 2) as clients:
                if prepared:
                    models.replace(repository, prepared)
                else:
                    models.export(checkpoint, repository)
                exported = time.monotonic()
                switched = float("nan")
                while time.monotonic() < exported + TIMEOUT:
                    time.sleep(0.1)
                    new = [
                        outcome.finished
                        for outcome in clients.outcomes
                        if outcome.code == OK and outcome.fingerprint != before
                    ]
                    if new:
                        switched = new[0] - exported
                        time.sleep(AFTERWARDS)
                        break
                since = time.monotonic() - AFTERWARDS / 2
            outcomes = clients.outcomes
        with running(model_repository=str(repository)) as fresh:
            expected |= expected_answers(fresh)
    failures = [outcome.code for outcome in outcomes if outcome.code != OK]
    succeeded = [outcome for outcome in outcomes if outcome.code == OK]
    late = sum(
        outcome.fingerprint == before
        for outcome in succeeded
        if outcome.sent > since and outcome.kind.startswith("encode")
    )
    label = "from the end of the export to the first response of the new version"
    yield Row("switch_seconds", label, switched, TIMEOUT, unit=" s")
    yield Row("switch_failed", "failed requests", len(failures), 0, note=tally(failures))
    label = "tokens and images that do not match their fingerprint"
    yield Row("switch_wrong", label, count_wrong(outcomes, expected), 0)
    label = f"responses of the old version {AFTERWARDS / 2:.0f} s after the first of the new"
    yield Row("switch_late", label, late, 0)
    fingerprints = tally([outcome.fingerprint for outcome in succeeded])
    yield Row("switch_calls", "calls, by fingerprint", len(outcomes), note=fingerprints)
