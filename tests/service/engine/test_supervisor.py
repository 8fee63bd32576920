import asyncio

import pytest
from structlog.testing import capture_logs

from service.engine.supervisor import Supervisor
from service.errors import CannotContinue, EngineUnavailable
from service.settings import Settings
from tests.support.scripted_engine import PolledTriton


class Failing(PolledTriton):
    """Raises `error` when it is polled. polls: how often that was."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__([])
        self.error = error
        self.polls = 0

    async def models(self) -> list[object]:  # type: ignore[override]
        self.polls += 1
        if self.error is not None:
            raise self.error
        return []


def supervising(triton: Failing) -> Supervisor:
    return Supervisor(triton, None, Settings(probe_seconds=0.001))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ZeroDivisionError(), EngineUnavailable("no answer")])
async def test_supervisor_is_not_ready_and_goes_on_after_an_error(error: Exception) -> None:
    triton = Failing(error)
    supervisor = supervising(triton)
    with capture_logs() as logs:
        await supervisor.readiness.set_ready(True)
        watch = asyncio.create_task(supervisor.watch(asyncio.Event()))
        while triton.polls < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        watch.cancel()
    assert not supervisor.readiness.ready
    unexpected = [entry for entry in logs if entry["event"] == "supervisor_failed"]
    assert bool(unexpected) == isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("error", [None, EngineUnavailable("no answer")])
async def test_refresh_polls_once_a_second_at_most_and_raises_nothing(
    error: Exception | None,
) -> None:
    triton = Failing(error)
    registry = supervising(triton).registry
    await asyncio.gather(*(registry.refresh() for _ in range(5)))
    assert triton.polls == 1


async def test_supervisor_that_ends_is_logged_and_stops_the_service() -> None:
    async def cannot(ready: bool) -> None:
        raise ZeroDivisionError

    supervisor, stop = supervising(Failing(OSError())), asyncio.Event()
    await supervisor.readiness.set_ready(True)
    supervisor.readiness.subscribe(cannot)
    with capture_logs() as logs, pytest.raises(CannotContinue):
        await supervisor.watch(stop)
    assert stop.is_set()
    assert "supervisor_ended" in [entry["event"] for entry in logs]


async def test_supervisor_that_is_cancelled_is_not_an_error() -> None:
    supervisor = supervising(Failing(None))
    watch = asyncio.create_task(supervisor.watch(asyncio.Event()))
    await asyncio.sleep(0)
    watch.cancel()
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await watch
    assert "supervisor_ended" not in [entry["event"] for entry in logs]
