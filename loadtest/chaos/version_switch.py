"""A new version of the demo tokenizer is exported into the repository of a service at work, by the command that operators use."""

import tempfile
import time
from pathlib import Path

from loadtest.chaos import models
from loadtest.chaos.attack import Row, Rows, counted
from loadtest.chaos.callers import OK, Callers, known_answers, wrong
from loadtest.harness.service_process import running

PATIENCE = 20.0  # seconds after the export within which replies must carry the new fingerprint
AFTERWARDS = 2.0


def switch(short: bool) -> Rows:
    """Callers encode and decode what came back, before, during and after; a fresh service on the new repository says what is right.

    short: the export is made before, and its result put in place.
    """
    with tempfile.TemporaryDirectory(prefix="channeltok-chaos-") as folder:
        repository = models.demo_repository(Path(folder))
        exported_before = models.nudged_repository() if short else None
        checkpoint = models.nudged_demo(Path(folder))
        with running(model_repository=str(repository), probe_seconds="1") as service:
            known = known_answers(service)
            (before,) = {fingerprint for fingerprint, _, _ in known}
            with Callers(service, pairs=1 if short else 2) as callers:
                if exported_before:
                    models.replace(repository, exported_before)
                else:
                    models.export(checkpoint, repository)
                exported = time.monotonic()
                switched = float("nan")
                while time.monotonic() < exported + PATIENCE:
                    time.sleep(0.1)
                    new = [
                        one.finished
                        for one in callers.outcomes
                        if one.code == OK and one.fingerprint != before
                    ]
                    if new:
                        switched = new[0] - exported
                        time.sleep(AFTERWARDS)
                        break
                since = time.monotonic() - AFTERWARDS / 2
            outcomes = callers.outcomes
        with running(model_repository=str(repository)) as fresh:
            known |= known_answers(fresh)
    failures = [outcome.code for outcome in outcomes if outcome.code != OK]
    late = sum(
        one.fingerprint == before
        for one in outcomes
        if one.code == OK and one.sent > since and one.kind.startswith("encode")
    )
    fingerprints = [outcome.fingerprint for outcome in outcomes if outcome.code == OK]
    yield Row(
        "switch_seconds",
        "from the export's end to the first reply of the new version",
        switched,
        PATIENCE,
        unit=" s",
    )
    yield Row("switch_failed", "failed requests", len(failures), 0, note=counted(failures))
    yield Row(
        "switch_wrong",
        "tokens and images other than those of their own fingerprint",
        wrong(outcomes, known),
        0,
    )
    yield Row(
        "switch_late",
        f"replies of the old version {AFTERWARDS / 2:.0f} s after the first of the new",
        late,
        0,
    )
    yield Row("switch_calls", "calls, by fingerprint", len(outcomes), note=counted(fingerprints))
