import pytest

from service.triton.servers import count_servers


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("127.0.0.1:8001", 1),
        ("[::1]:8001", 1),
        ("localhost:8001", 1),
        ("dns:///localhost:8001", 1),
        ("unix:/run/channeltok/triton.sock", 1),
        ("ipv4:10.0.0.1:8001,10.0.0.2:8001", 2),
        ("ipv6:[fd00::1]:8001,[fd00::2]:8001,[fd00::3]:8001", 3),
        ("no-such-host.invalid:8001", 1),
        ("dns:///no-such-host.invalid:8001", 1),
    ],
)
async def test_count_servers(target: str, count: int) -> None:
    assert await count_servers(target) == count
