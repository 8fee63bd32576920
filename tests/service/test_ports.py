import socket
import threading

import pytest

from service import ports
from service.errors import CannotStart
from service.ports import bind, print_ready, share
from service.settings import Settings


def test_bind_names_the_port_that_is_taken_and_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "BIND_SECONDS", 0.1)
    with bind("127.0.0.1", 0, "REST") as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(CannotStart, match=f"{port}.*set CHANNELTOK_REST_PORT"):
            bind("127.0.0.1", port, "REST")


def test_bind_waits_for_a_service_that_ends() -> None:
    with bind("127.0.0.1", 0, "REST") as first:
        first.listen()
        threading.Timer(0.2, first.close).start()
        bind("127.0.0.1", first.getsockname()[1], "REST").close()


def test_share_admits_workers_and_no_second_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "BIND_SECONDS", 0.1)
    with bind("127.0.0.1", 0, "REST") as first:
        port = first.getsockname()[1]
        share(first)
        for _ in range(2):  # before a worker, and after it
            with pytest.raises(CannotStart):
                bind("127.0.0.1", port, "REST")
            with bind("127.0.0.1", port, "REST", reuse=True) as worker:
                worker.listen()
                with pytest.raises(CannotStart):
                    bind("127.0.0.1", port, "REST")


@pytest.mark.parametrize("next_shares", [True, False], ids=["one to several", "several to one"])
def test_bind_takes_a_port_with_closed_connections(next_shares: bool) -> None:
    """The kernel keeps a connection for a minute if the service closed it first (TIME_WAIT)."""
    with bind("127.0.0.1", 0, "REST", reuse=not next_shares) as old:
        old.listen()
        port = old.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            old.accept()[0].close()
            assert client.recv(1) == b""
    bind("127.0.0.1", port, "REST", reuse=next_shares).close()


def test_print_ready_says_where_the_service_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_ready(Settings(), 8080, 50051, 1.25)
    assert "ready in 1.2 s   REST http://127.0.0.1:8080  " in capsys.readouterr().out
