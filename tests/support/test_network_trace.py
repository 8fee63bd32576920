"""The reader of strace's output, on lines that strace 6.1 wrote."""

import pytest

from tests.support.network_trace import outside

HERE = [
    '7 connect(3, {sa_family=AF_INET, sin_port=htons(8001), sin_addr=inet_addr("127.0.0.1")}, 16) = 0',
    "7 connect(3, {sa_family=AF_INET6, sin6_port=htons(8001), sin6_flowinfo=htonl(0), "
    'inet_pton(AF_INET6, "::ffff:127.0.0.1", &sin6_addr), sin6_scope_id=0}, 28) = -1 EINPROGRESS (Operation now in progress)',
    "7 connect(3, {sa_family=AF_INET6, sin6_port=htons(0), sin6_flowinfo=htonl(0), "
    'inet_pton(AF_INET6, "::1", &sin6_addr), sin6_scope_id=0}, 28) = -1 EADDRNOTAVAIL (Cannot assign requested address)',
    '7 connect(3, {sa_family=AF_UNIX, sun_path="/tmp/ray/sockets/raylet"}, 110) = 0',
    '7 sendto(3, "GET / HTTP/1.1\\r\\n", 16, MSG_NOSIGNAL, NULL, 0) = 16',
    '7 bind(3, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("192.0.2.2")}, 16) = 0',
    '7 recvfrom(3, "...", 2048, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.1")}, [28 => 16]) = 67',
    "7 +++ exited with 0 +++",
]


@pytest.mark.parametrize("line", HERE)
def test_what_stays_here(line: str) -> None:
    assert outside([line]) == []


@pytest.mark.parametrize(
    "line",
    [
        '7 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.7")}, 16 <unfinished ...>',
        '7 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("192.0.2.7")}, 16) = -1 ENETUNREACH',
        "7 connect(3, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), "
        'inet_pton(AF_INET6, "2001:db8::7", &sin6_addr), sin6_scope_id=0}, 28) = -1 EINPROGRESS (Operation now in progress)',
        '7 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0',
        '7 sendto(3, "...", 50, MSG_NOSIGNAL, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.1")}, 16) = 50',
        '7 sendmsg(3, {msg_name={sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("192.0.2.7")}, msg_namelen=16, '
        'msg_iov=[{iov_base="x", iov_len=1}], msg_iovlen=1, msg_controllen=0, msg_flags=0}, 0) = 1',
        '7 connect(3, {sa_family=AF_UNIX, sun_path="/run/systemd/resolve/io.systemd.Resolve"}, 42) = 0',
    ],
)
def test_what_goes_outside(line: str) -> None:
    assert outside([*HERE, line]) == [line]


def test_another_address_of_this_machine_is_here_but_not_its_name_server() -> None:
    line = '7 connect(3, {sa_family=AF_INET, sin_port=htons(6379), sin_addr=inet_addr("192.0.2.2")}, 16) = 0'
    assert outside([line], own=["192.0.2.2"]) == []
    assert outside([line.replace("6379", "53")], own=["192.0.2.2"])
