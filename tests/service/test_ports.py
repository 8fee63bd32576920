import socket
import threading

import pytest

from service import ports
from service.errors import CannotStart
from service.ports import bind, bind_all, print_ready, share
from service.settings import Settings
from tests.support.ipv6 import needs_ipv6


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


@pytest.mark.parametrize(
    ("host", "callers"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"]),
        pytest.param("::1", ["::1"], marks=needs_ipv6),
        pytest.param("::", ["::1", "127.0.0.1"], marks=needs_ipv6),
    ],
)
def test_bind_all_takes_callers_of_every_address(host: str, callers: list[str]) -> None:
    bound = bind_all(host, 0, "REST")
    assert len({one.getsockname()[1] for one in bound}) == 1
    for one in bound:
        one.listen()
    for caller in callers:
        socket.create_connection((caller, bound[0].getsockname()[1]), timeout=10).close()
    for one in bound:
        one.close()


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("203.0.113.7", "not an address of this machine"),
        ("2001:db8::7", "not an address of this machine"),
        ("127.0.0.1:8080", "neither an IP address nor a name"),
        ("no such host", "neither an IP address nor a name"),
        ("1.2.3.4.5", "neither an IP address nor a name"),
        ("a" * 300, "neither an IP address nor a name"),
        (".", "neither an IP address nor a name"),
    ],
)
def test_bind_all_names_the_host_that_is_wrong_and_no_port(host: str, why: str) -> None:
    with pytest.raises(CannotStart, match=f"CHANNELTOK_HOST: .*{why}") as caught:
        bind_all(host, 0, "gRPC")
    assert "_PORT" not in str(caught.value)


@needs_ipv6
def test_bind_all_of_every_address_finds_a_port_that_ipv4_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ports, "BIND_SECONDS", 0.1)
    with bind("0.0.0.0", 0, "REST") as first:
        first.listen()
        with pytest.raises(CannotStart, match=r"in use.*set CHANNELTOK_REST_PORT"):
            bind_all("::", first.getsockname()[1], "REST")


@pytest.mark.parametrize(
    ("host", "printed"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("localhost", "localhost"),
    ],
)
def test_print_ready_says_where_to_call_the_service(
    host: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_ready(Settings(host=host), 8080, 50051, 1.25)
    line = capsys.readouterr().out
    assert f"ready in 1.2 s   REST http://{printed}:8080  " in line
    assert f"gRPC {printed}:50051\n" in line
