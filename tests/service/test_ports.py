import pytest

from service.errors import CannotStart
from service.ports import bind, print_ready
from service.settings import Settings


def test_bind_names_the_port_that_is_taken_and_its_setting() -> None:
    with bind("127.0.0.1", 0, "REST", reuse=False) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(CannotStart, match=f"{port}.*set CHANNELTOK_REST_PORT"):
            bind("127.0.0.1", port, "REST", reuse=False)


def test_bind_shares_a_port_among_those_who_reuse_it() -> None:
    with bind("127.0.0.1", 0, "REST", reuse=True) as first:
        first.listen()
        bind("127.0.0.1", first.getsockname()[1], "REST", reuse=True).close()


def test_print_ready_says_where_the_service_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_ready(Settings(), 8080, 50051, 1.25)
    assert "ready in 1.2 s   REST http://127.0.0.1:8080  " in capsys.readouterr().out
