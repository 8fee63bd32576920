import pytest
from channeltok.loopback import proxy_options, reaches_loopback, url_reaches_loopback


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.10",
        "localhost",
        "LocalHost",
        "localhost.",
        "a.localhost",
        "::1",
        "0:0:0:0:0:0:0:1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
    ],
)
def test_reaches_loopback_knows_every_spelling(host: str) -> None:
    assert reaches_loopback(host)
    address = f"[{host}]" if ":" in host else host
    for target in (f"{address}:50051", f"dns:///{address}:50051", f"dns:{address}:50051", address):
        assert proxy_options(target) == [("grpc.enable_http_proxy", 0)], target
    assert url_reaches_loopback(f"http://{address}:8080/metrics")


@pytest.mark.parametrize(
    "host", ["", "10.0.0.1", "localhost.example", "notlocalhost", "2001:db8::1", "triton", "]["]
)
def test_reaches_loopback_leaves_other_hosts_to_their_proxies(host: str) -> None:
    assert not reaches_loopback(host)
    address = f"[{host}]" if ":" in host else host
    for target in (f"{address}:50051", f"dns:///{address}:50051", address):
        assert proxy_options(target) == [], target
    assert not url_reaches_loopback(f"http://{address}:8080/metrics")


def test_proxy_options_need_every_address_of_a_list_to_be_loopback() -> None:
    assert proxy_options("ipv4:127.0.0.1:1,127.0.0.1:2")
    assert proxy_options("ipv6:[::1]:1")
    assert proxy_options("::1")
    assert not proxy_options("ipv4:127.0.0.1:1,10.0.0.1:2")
