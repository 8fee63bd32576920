"""The frame of attacks by strangers without a token: what they cost an honest caller, memory, log.

Quiet calls are measured first, on the same service.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.honest import Honest
from loadtest.harness import process_stats
from loadtest.harness.service_process import Service, running

TOKEN = "a-token-that-strangers-do-not-have"
SEND_SECONDS = 4
MEMORY_MIB = 200  # more than at rest
LOG_KIB = 256
SLOWDOWN = 2.0
_WARM_UP = 10  # calls
Attack = Callable[[Service], None]


@contextmanager
def guarded() -> Iterator[Service]:
    """A service with bearer tokens, and little time for replies that are not read."""
    with tempfile.TemporaryDirectory(prefix="channeltok-chaos-") as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text(f"{TOKEN}\n")
        with running(bearer_token_file=str(tokens), send_seconds=str(SEND_SECONDS)) as service:
            yield service


def measured(service: Service, name: str, attacks: dict[str, Attack], quiet_seconds: float) -> Rows:
    """The rows of some attacks, one after the other. attacks: title -> what runs it to its end."""
    with Honest(service, TOKEN) as honest:
        time.sleep(quiet_seconds)
        quiet = honest.p99(_WARM_UP)
        yield Row(f"{name}_quiet_seconds", "quiet: 99 % of honest calls within", quiet, unit=" s")
        before = process_stats.read(service.process.pid).memory
        for number, (title, attack) in enumerate(attacks.items(), 1):
            calls, failed = len(honest.seconds), len(honest.failures)
            written = _log_bytes(service)
            with process_stats.watched(service.process.pid, 0.25) as peak:
                attack(service)
            label = f"{title}: 99 % of honest calls, x quiet"
            slowdown = honest.p99(calls) / quiet
            note = f"{len(honest.seconds) - calls} calls"
            yield Row(f"{name}_{number}_ratio", label, slowdown, SLOWDOWN, unit=" x", note=note)
            label = f"{title}: failed honest calls"
            failures = honest.failures[failed:]
            yield Row(f"{name}_{number}_failed", label, len(failures), 0, note=tally(failures))
            label = f"{title}: more memory than at rest"
            more = (peak.memory - before) / 2**20
            yield Row(f"{name}_{number}_memory", label, more, MEMORY_MIB, unit=" MiB")
            label = f"{title}: written to the log"
            kib = (_log_bytes(service) - written) / 2**10
            yield Row(f"{name}_{number}_log", label, kib, LOG_KIB, unit=" KiB")
    dead = int(service.process.poll() is not None)
    yield Row(f"{name}_dead", "services that died", dead, 0)


def _log_bytes(service: Service) -> int:
    return sum(map(len, service.log[:]))
