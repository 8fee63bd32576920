"""The service with a supervisor whose loops end, with errors nobody expects, after SIGUSR1."""

import signal

from service.__main__ import main
from service.engine.readiness import Readiness

ending = False


def end(*_: object) -> None:
    global ending
    ending = True


async def set_ready(self: Readiness, ready: bool, why_not: str = "") -> None:
    if ending:
        raise RuntimeError("deliberate")
    await original_set_ready(self, ready, why_not)


async def poll(self: Readiness) -> set[str]:
    if ending:
        raise OSError("deliberate")
    return await original_poll(self)


original_set_ready, original_poll = Readiness.set_ready, Readiness.poll
Readiness.set_ready, Readiness.poll = set_ready, poll  # type: ignore[method-assign]
signal.signal(signal.SIGUSR1, end)
main()
