"""A stop by a signal that all processes get: from systemd, or from a terminal."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from loadtest.chaos.clients import NOT_ACCEPTED, OK, Clients
from tests.support.running import Service, running


def signal_everybody(service: Service, number: signal.Signals) -> None:
    """As systemd does with KillMode=control-group."""
    for process in (*service.children(), service.process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def signal_the_group(service: Service, number: signal.Signals) -> None:
    """As a terminal does at Ctrl-C."""
    os.killpg(service.process.pid, number)


@pytest.fixture
def notifications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """What the service has sent to systemd since the last call."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def received() -> list[str]:
            systemd.settimeout(5)  # the first may follow the line that says "ready"
            messages = [systemd.recv(4096).decode()]
            systemd.settimeout(0)
            with suppress(BlockingIOError):
                while True:
                    messages.append(systemd.recv(4096).decode())
            return messages

        yield received


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("send", "number"),
    [(signal_everybody, signal.SIGTERM), (signal_the_group, signal.SIGINT)],
    ids=["systemd", "terminal"],
)
def test_signal_to_all_processes_loses_no_accepted_call(
    workers: str,
    send: Callable[[Service, signal.Signals], None],
    number: signal.Signals,
    notifications: Callable[[], list[str]],
) -> None:
    with running(under=("setsid",), workers=workers, max_queue_seconds="30") as service:
        children = service.children()
        assert notifications() == ["READY=1"]
        with Clients(service, pairs=12, stop_when_refused=True) as clients:
            send(service, number)
            assert service.process.wait(40) == 0
            assert clients.ended(20)
        assert notifications() == ["STOPPING=1"]
        lost = [one for one in clients.outcomes if one.code not in (OK, *NOT_ACCEPTED)]
        assert not lost
        assert sum(event.get("unfinished", 0) for event in service.events("stopped")) == 0
        assert not psutil.wait_procs(children, 5)[1]
