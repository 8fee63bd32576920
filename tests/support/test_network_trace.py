"""The parser of strace output, on lines that strace 6.1 wrote (tests/support/strace)."""

from pathlib import Path

import pytest

from tests.support.network_trace import outside

STRACE = Path(__file__).with_name("strace")
LOCAL, OUTSIDE = ((STRACE / name).read_text().splitlines() for name in ("local.txt", "outside.txt"))


@pytest.mark.parametrize("line", LOCAL)
def test_outside_leaves_out_local_calls(line: str) -> None:
    assert outside([line]) == []


@pytest.mark.parametrize("line", OUTSIDE)
def test_outside_finds_calls_to_other_machines_and_name_servers(line: str) -> None:
    assert outside([*LOCAL, line]) == [line]


def test_outside_takes_own_addresses_as_local_but_not_their_name_server() -> None:
    connect = "7 connect(3, {sa_family=AF_INET, sin_port=htons(6379), "
    line = connect + 'sin_addr=inet_addr("192.0.2.2")}, 16) = 0'
    assert outside([line], own=["192.0.2.2"]) == []
    assert outside([line.replace("6379", "53")], own=["192.0.2.2"])
