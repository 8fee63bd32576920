"""When the supervisor says that the service is not ready, and why."""

import pytest
from structlog.testing import capture_logs

from service.engine import supervisor
from service.engine.supervisor import Supervisor
from service.settings import Settings
from service.triton.client import Triton


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """Of a Triton elsewhere that nobody asks."""
    settings = Settings(triton_url="127.0.0.1:1")
    return Supervisor(Triton("127.0.0.1:1"), None, settings)


class Clock:
    """Stands in for time.monotonic."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_reason_is_logged_when_it_changes_and_once_a_minute_while_it_stays(
    watched: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(supervisor.time, "monotonic", clock)
    with capture_logs() as logs:
        for second in range(121):  # a look each second
            clock.now = 1000.0 + second
            await watched._set_ready(
                False, "Triton does not answer" if second < 10 else f"model {second % 2} fails"
            )
    said = [(entry["event"], entry["why"]) for entry in logs]
    assert said[0] == ("not_ready", "Triton does not answer")  # at once, though it never was ready
    assert said.count(("not_ready", "Triton does not answer")) == 1
    assert [said.count(("not_ready", f"model {number} fails")) for number in (0, 1)] == [2, 2]


async def test_a_reason_that_comes_back_after_readiness_is_news(watched: Supervisor) -> None:
    with capture_logs() as logs:
        for ready in (False, True, False, True):
            await watched._set_ready(ready, "Triton does not answer")
    assert [entry["event"] for entry in logs] == ["not_ready", "ready", "not_ready", "ready"]
